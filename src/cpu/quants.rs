//! Rows in a stored format as f32, part by part: loops over bytes of one part that a compiler makes vectors of, in whatever
//! function they are inlined. How the rows lie: [`crate::quants`].

use half::f16;

use crate::kernel::Format;
use crate::quants::{GROUPS, PART, PARTS, group_start, sizes};

/// The bytes of a row on the host: those of bf16 are dense.
pub(super) fn row_bytes(format: Format, columns: usize) -> usize {
    if format.is_quantized() { format.row_bytes(columns) } else { columns * format.block().1 }
}

/// The numbers of a row from `first` on, which is a multiple of 256, as many as `out` holds.
#[inline(always)]
pub(super) fn widen(format: Format, row: &[u8], first: usize, out: &mut [f32]) {
    match format {
        Format::Q8_0 => parts(row, first, out, format, q8_0),
        Format::Q4_0 => parts(row, first, out, format, q4_0),
        Format::Q4_1 => parts(row, first, out, format, q4_1),
        Format::Q5_0 => parts(row, first, out, format, q5_0),
        Format::Q5_1 => parts(row, first, out, format, q5_1),
        Format::Q4K => parts(row, first, out, format, q4_k),
        Format::Q5K => parts(row, first, out, format, q5_k),
        Format::Q6K => six(row, first, out),
        // Two bytes each; the others are not stored as bytes on the host.
        _ => {
            let halves = row.get(2 * first..).unwrap_or_default().as_chunks::<2>().0;
            for (out, half) in out.iter_mut().zip(halves) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*half)) << 16);
            }
        }
    }
}

/// Calls `part` for each part with its group's head, its number within it, and its body.
#[inline(always)]
fn parts(
    row: &[u8],
    first: usize,
    out: &mut [f32],
    format: Format,
    part: impl Fn(&[u8], usize, &[u8], &mut [f32; PART]),
) {
    let (head, body) = sizes(format);
    for (i, out) in out.as_chunks_mut::<PART>().0.iter_mut().enumerate() {
        let at = first / PART + i;
        let group = row.get(group_start(format, at / PARTS)..).unwrap_or_default();
        if let Some((head, bodies)) = group.split_at_checked(head)
            && let Some(body) = bodies.get(body * (at % PARTS)..).and_then(|bodies| bodies.get(..body))
        {
            part(head, at % PARTS, body, out);
        }
    }
}

#[inline(always)]
fn half(bytes: &[u8], at: usize) -> f32 {
    let [low, high] = bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or_default();
    f16::from_bits(u16::from_le_bytes([low, high])).to_f32()
}

#[inline(always)]
fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or_default()
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// The sixteen bytes of nibbles.
#[inline(always)]
fn nibbles(body: &[u8]) -> [u8; PART / 2] {
    body.first_chunk().copied().unwrap_or_default()
}

/// scale q + add for the 32 numbers q of nibbles and the bits above them, q counted from `zero` on.
#[inline(always)]
fn scaled(nibbles: [u8; PART / 2], above: [u8; PART], zero: i32, scale: f32, add: f32, out: &mut [f32; PART]) {
    let (low, high) = out.split_at_mut(PART / 2);
    for (j, (low, high)) in low.iter_mut().zip(high).enumerate() {
        let (q_low, q_high) = (nibbles[j] & 15 | above[j], nibbles[j] >> 4 | above[PART / 2 + j]);
        *low = scale * (i32::from(q_low) - zero) as f32 + add;
        *high = scale * (i32::from(q_high) - zero) as f32 + add;
    }
}

/// The fifth bits of a part, each where it belongs: bit 8b + i for number 4i + b.
#[inline(always)]
fn fifth(bits: u32) -> [u8; PART] {
    let mut above = [0; PART];
    for (l, above) in above.iter_mut().enumerate() {
        *above = ((bits >> (8 * (l % 4) + l / 4) & 1) << 4) as u8;
    }
    above
}

#[inline(always)]
fn q8_0(head: &[u8], part: usize, body: &[u8], out: &mut [f32; PART]) {
    let scale = half(head, 2 * part);
    for (out, &q) in out.iter_mut().zip(body) {
        *out = scale * f32::from(q as i8);
    }
}

// Adding -0 changes nothing, not even the sign of a zero; inverted upper bits, q ^ 8, counted from 0 are q counted from 8.

#[inline(always)]
fn q4_0(head: &[u8], part: usize, body: &[u8], out: &mut [f32; PART]) {
    scaled(nibbles(body).map(|byte| byte ^ 0x88), [0; PART], 8, half(head, 2 * part), -0.0, out);
}

#[inline(always)]
fn q4_1(head: &[u8], part: usize, body: &[u8], out: &mut [f32; PART]) {
    scaled(nibbles(body), [0; PART], 0, half(head, 4 * part), half(head, 4 * part + 2), out);
}

#[inline(always)]
fn q5_0(head: &[u8], part: usize, body: &[u8], out: &mut [f32; PART]) {
    scaled(nibbles(body), fifth(!word(head, 16 + 4 * part)), 16, half(head, 2 * part), -0.0, out);
}

#[inline(always)]
fn q5_1(head: &[u8], part: usize, body: &[u8], out: &mut [f32; PART]) {
    let bits = word(head, 32 + 4 * part);
    scaled(nibbles(body), fifth(bits), 0, half(head, 4 * part), half(head, 4 * part + 2), out);
}

/// The scale of a part of q4_k or q5_k, and what is subtracted: each six bits and a scale of their own.
#[inline(always)]
fn six_bits(head: &[u8], part: usize) -> (f32, f32) {
    let (scale, minimum, last) = (byte(head, 4 + part % 4), byte(head, 8 + part % 4), byte(head, 12 + part % 4));
    let (scale, minimum) = match part {
        0..4 => (scale & 63, minimum & 63),
        _ => (last & 15 | scale >> 6 << 4, last >> 4 | minimum >> 6 << 4),
    };
    (half(head, 0) * f32::from(scale), half(head, 2) * f32::from(minimum))
}

#[inline(always)]
fn q4_k(head: &[u8], part: usize, body: &[u8], out: &mut [f32; PART]) {
    let (scale, minimum) = six_bits(head, part);
    scaled(nibbles(body), [0; PART], 0, scale, -minimum, out);
}

#[inline(always)]
fn q5_k(head: &[u8], part: usize, body: &[u8], out: &mut [f32; PART]) {
    let (scale, minimum) = six_bits(head, part);
    scaled(nibbles(body), fifth(word(head, 16 + 4 * part)), 0, scale, -minimum, out);
}

/// q6_k, where the scale of a group stands elsewhere, and a part has two.
#[inline(always)]
fn six(row: &[u8], first: usize, out: &mut [f32]) {
    let group = std::cell::Cell::new(first / (PART * PARTS));
    parts(row, first, out, Format::Q6K, |head, part, body, out| {
        let scales = group_start(Format::Q6K, group.get() / GROUPS * GROUPS) - 16;
        let scale = half(row, scales + 2 * (group.get() % GROUPS));
        group.set(group.get() + usize::from(part == PARTS - 1));
        let mut above = [0; PART];
        for (l, above) in above.iter_mut().enumerate() {
            // The upper bit is stored inverted.
            let bits = byte(head, 16 + 8 * part + l / 16 * 4 + l % 4) >> (l / 4 % 4 * 2) & 3;
            *above = (bits ^ 2) << 4;
        }
        let mut numbers = [0.0; PART];
        scaled(nibbles(body), above, 32, 1.0, 0.0, &mut numbers);
        for (l, (out, number)) in out.iter_mut().zip(numbers).enumerate() {
            *out = scale * f32::from(byte(head, 2 * part + l / 16) as i8) * number;
        }
    });
}
