//! Rows in a stored format as f32, part by part: loops over bytes of one part that a compiler makes vectors of, in whatever
//! function they are inlined. How the rows lie: [`crate::quants`].

use crate::kernel::Format;
use crate::quants::{GROUPS, PART, PARTS, group_start, sizes};

/// The bytes of a row on the host: those of bf16 are dense.
pub(super) fn row_bytes(format: Format, columns: usize) -> usize {
    if format.is_quantized() { format.row_bytes(columns) } else { columns * format.block().1 }
}

/// The numbers of a row from `first` on, which is a multiple of 256, as many as `out` holds.
#[inline(always)]
pub(super) fn widen(format: Format, row: &[u8], first: usize, out: &mut [f32]) {
    // Each by its name, so that a loop has one format.
    match format {
        Format::Q8_0 => parts(Format::Q8_0, row, first, out),
        Format::Q4_0 => parts(Format::Q4_0, row, first, out),
        Format::Q4_1 => parts(Format::Q4_1, row, first, out),
        Format::Q5_0 => parts(Format::Q5_0, row, first, out),
        Format::Q5_1 => parts(Format::Q5_1, row, first, out),
        Format::Q4K => parts(Format::Q4K, row, first, out),
        Format::Q5K => parts(Format::Q5K, row, first, out),
        Format::Q6K => parts(Format::Q6K, row, first, out),
        // Two bytes each; the others are not stored as bytes on the host.
        _ => {
            let halves = row.get(2 * first..).unwrap_or_default().as_chunks::<2>().0;
            for (out, half) in out.iter_mut().zip(halves) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*half)) << 16);
            }
        }
    }
}

/// Where a part of a row is.
struct Part<'a> {
    row: &'a [u8],
    group: usize,
    /// The head of its group.
    head: &'a [u8],
    /// Which of its group it is.
    at: usize,
    body: &'a [u8],
}

#[inline(always)]
fn parts(format: Format, row: &[u8], first: usize, out: &mut [f32]) {
    let (head, body) = sizes(format);
    for (i, out) in out.as_chunks_mut::<PART>().0.iter_mut().enumerate() {
        let (group, at) = ((first / PART + i) / PARTS, (first / PART + i) % PARTS);
        let rest = row.get(group_start(format, group)..).unwrap_or_default();
        if let Some((head, bodies)) = rest.split_at_checked(head)
            && let Some(body) = bodies.get(body * at..body * (at + 1))
        {
            let part = Part { row, group, head, at, body };
            // Not a function that is handed in: the call of that is compiled for any processor, and stays a call.
            match format {
                Format::Q8_0 => q8_0(&part, out),
                Format::Q4_0 => q4_0(&part, out),
                Format::Q4_1 => q4_1(&part, out),
                Format::Q5_0 => q5_0(&part, out),
                Format::Q5_1 => q5_1(&part, out),
                Format::Q4K => q4_k(&part, out),
                Format::Q5K => q5_k(&part, out),
                _ => q6_k(&part, out),
            }
        }
    }
}

/// The f16 at a byte. Not the conversion of a crate, which asks each time what the processor can do: the bits of a half,
/// moved to where an f32 has them, are that number times 2^-112, subnormal or not.
#[inline(always)]
fn half(bytes: &[u8], at: usize) -> f32 {
    let bits = u32::from(byte(bytes, at)) | u32::from(byte(bytes, at + 1)) << 8;
    let (sign, moved) = ((bits & 0x8000) << 16, (bits & 0x7fff) << 13);
    let magnitude = f32::from_bits(moved) * f32::from_bits((127 + 112) << 23);
    // Infinite, or not a number.
    let magnitude = if moved >= 0x7c00 << 13 { moved | 0x7f80_0000 } else { magnitude.to_bits() };
    f32::from_bits(sign | magnitude)
}

#[inline(always)]
fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or_default()
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// A part's lower bits: byte b of word i is number 4i + b.
#[inline(always)]
fn nibbles(body: &[u8]) -> [u32; 8] {
    let mut words = [0; 8];
    for i in 0..4 {
        let word = word(body, 4 * i);
        (words[i], words[i + 4]) = (word & 0x0f0f_0f0f, word >> 4 & 0x0f0f_0f0f);
    }
    words
}

/// Nibbles with the fifth bits of a part above them.
#[inline(always)]
fn fives(body: &[u8], bits: u32) -> [u32; 8] {
    let mut words = nibbles(body);
    for (i, word) in words.iter_mut().enumerate() {
        *word |= (bits >> i & 0x0101_0101) << 4;
    }
    words
}

/// scale q + add for the 32 numbers q in the bytes of words, counted from `zero` on, with one scale to 16.
#[inline(always)]
fn scaled(words: [u32; 8], zero: i32, scales: [f32; 2], add: f32, out: &mut [f32; PART]) {
    let mut bytes = [0u8; PART];
    for (four, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *four = word.to_le_bytes();
    }
    for (half, scale) in scales.into_iter().enumerate() {
        for l in 16 * half..16 * (half + 1) {
            out[l] = scale * (i32::from(bytes[l]) - zero) as f32 + add;
        }
    }
}

#[inline(always)]
fn q8_0(part: &Part<'_>, out: &mut [f32; PART]) {
    let scale = half(part.head, 2 * part.at);
    let bytes: [u8; PART] = part.body.first_chunk().copied().unwrap_or_default();
    for (out, q) in out.iter_mut().zip(bytes) {
        *out = scale * f32::from(q as i8);
    }
}

// Adding -0 changes nothing, not even the sign of a zero. Upper bits that are stored inverted are turned back.

#[inline(always)]
fn q4_0(part: &Part<'_>, out: &mut [f32; PART]) {
    let scale = half(part.head, 2 * part.at);
    scaled(nibbles(part.body).map(|word| word ^ 0x0808_0808), 8, [scale; 2], -0.0, out);
}

#[inline(always)]
fn q4_1(part: &Part<'_>, out: &mut [f32; PART]) {
    let (scale, minimum) = (half(part.head, 4 * part.at), half(part.head, 4 * part.at + 2));
    scaled(nibbles(part.body), 0, [scale; 2], minimum, out);
}

#[inline(always)]
fn q5_0(part: &Part<'_>, out: &mut [f32; PART]) {
    let (scale, bits) = (half(part.head, 2 * part.at), word(part.head, 16 + 4 * part.at));
    scaled(fives(part.body, !bits), 16, [scale; 2], -0.0, out);
}

#[inline(always)]
fn q5_1(part: &Part<'_>, out: &mut [f32; PART]) {
    let (scale, minimum) = (half(part.head, 4 * part.at), half(part.head, 4 * part.at + 2));
    scaled(fives(part.body, word(part.head, 32 + 4 * part.at)), 0, [scale; 2], minimum, out);
}

/// The scale of a part of q4_k or q5_k, and what is subtracted: each six bits and a scale of their own.
#[inline(always)]
fn six_bits(Part { head, at, .. }: &Part<'_>) -> (f32, f32) {
    let (scale, minimum, last) = (byte(head, 4 + at % 4), byte(head, 8 + at % 4), byte(head, 12 + at % 4));
    let (scale, minimum) = match at {
        0..4 => (scale & 63, minimum & 63),
        _ => (last & 15 | scale >> 6 << 4, last >> 4 | minimum >> 6 << 4),
    };
    (half(head, 0) * f32::from(scale), half(head, 2) * f32::from(minimum))
}

#[inline(always)]
fn q4_k(part: &Part<'_>, out: &mut [f32; PART]) {
    let (scale, minimum) = six_bits(part);
    scaled(nibbles(part.body), 0, [scale; 2], -minimum, out);
}

#[inline(always)]
fn q5_k(part: &Part<'_>, out: &mut [f32; PART]) {
    let (scale, minimum) = six_bits(part);
    scaled(fives(part.body, word(part.head, 16 + 4 * part.at)), 0, [scale; 2], -minimum, out);
}

#[inline(always)]
fn q6_k(Part { row, group, head, at, body }: &Part<'_>, out: &mut [f32; PART]) {
    // The scales of eight groups stand before the first of them.
    let scales = group_start(Format::Q6K, group / GROUPS * GROUPS) - 16;
    let scale = half(row, scales + 2 * (group % GROUPS));
    let of_half = |half: usize| scale * f32::from(byte(head, 2 * at + half) as i8);
    let (lower, upper) = (word(head, 16 + 8 * at), word(head, 20 + 8 * at));
    let mut words = nibbles(body);
    for i in 0..4 {
        words[i] |= (lower >> (2 * i) & 0x0303_0303 ^ 0x0202_0202) << 4;
        words[i + 4] |= (upper >> (2 * i) & 0x0303_0303 ^ 0x0202_0202) << 4;
    }
    scaled(words, 32, [of_half(0), of_half(1)], -0.0, out);
}
