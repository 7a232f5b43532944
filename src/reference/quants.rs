//! What stored numbers are: the layouts of ggml's blocks (ggml-common.h, `block_q4_0` and so on) as its
//! `dequantize_row_*` read them (ggml-quants.c). One rounding each at most, because scales have 11 bits, the scales of those
//! 6 or 8 and quants 8: all products are exact in f32, and what is left is the subtraction of a minimum.

use crate::kernel::Format;

/// A number as it is used, and the sum of the magnitudes of what it is the sum of: |scale q| + |minimum|.
///
/// ```
/// use gristmill::{Format, half::f16, reference};
///
/// // A block of Q8_0: a scale of 0.5, and thirty-two quants.
/// let block = [&f16::from_f32(0.5).to_le_bytes()[..], &[250; 32]].concat();
/// let parts: Vec<reference::Parts> = reference::dequantize_parts(Format::Q8_0, &block);
/// assert_eq!(parts, [(-3.0, 3.0); 32]);
/// ```
pub type Parts = (f32, f32);

/// The numbers of whole blocks, as files have them. What follows the last whole block is left out.
pub fn dequantize(format: Format, bytes: &[u8]) -> Vec<f32> {
    dequantize_parts(format, bytes).into_iter().map(|(number, _)| number).collect()
}

/// [`dequantize`], with the magnitudes that the error of a product is measured by.
pub fn dequantize_parts(format: Format, bytes: &[u8]) -> Vec<Parts> {
    let mut out = Vec::new();
    for block in bytes.chunks_exact(format.block().1) {
        match format {
            Format::F32 => out.push(plain(f32::from_le_bytes([block[0], block[1], block[2], block[3]]))),
            Format::F16 => out.push(plain(half(block, 0))),
            Format::BF16 => out.push(plain(f32::from_bits(u32::from(word(block, 0)) << 16))),
            Format::Q8_0 => out.extend((0..32).map(|l| plain(half(block, 0) * f32::from(block[2 + l] as i8)))),
            Format::Q4_0 | Format::Q5_0 | Format::Q4_1 | Format::Q5_1 => small(format, block, &mut out),
            Format::Q4K | Format::Q5K => large(format, block, &mut out),
            Format::Q6K => six(block, &mut out),
        }
    }
    out
}

fn plain(number: f32) -> Parts {
    (number, number.abs())
}

fn word(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// The f16 at a byte.
fn half(block: &[u8], at: usize) -> f32 {
    half::f16::from_bits(word(block, at)).to_f32()
}

/// Blocks of 32 numbers of 4 or 5 bits: number l in the lower nibble of byte l, number l + 16 in the upper.
fn small(format: Format, block: &[u8], out: &mut Vec<Parts>) {
    let (has_minimum, bits) = match format {
        Format::Q4_0 => (false, 4),
        Format::Q4_1 => (true, 4),
        Format::Q5_0 => (false, 5),
        _ => (true, 5),
    };
    let fifth_bits = if has_minimum { 4 } else { 2 };
    let quants = fifth_bits + if bits == 5 { 4 } else { 0 };
    for l in 0..32 {
        let byte = block[quants + l % 16];
        let mut q = i32::from(if l < 16 { byte & 15 } else { byte >> 4 });
        if bits == 5 {
            q += 16 * i32::from(block[fifth_bits + l / 8] >> (l % 8) & 1);
        }
        if has_minimum {
            let (scaled, minimum) = (half(block, 0) * q as f32, half(block, 2));
            out.push((scaled + minimum, scaled.abs() + minimum.abs()));
        } else {
            out.push(plain(half(block, 0) * (q - (1 << (bits - 1))) as f32));
        }
    }
}

/// Blocks of 256 numbers of 4 or 5 bits in eight parts.
fn large(format: Format, block: &[u8], out: &mut Vec<Parts>) {
    let quants = if format == Format::Q5K { 48 } else { 16 };
    let packed = &block[4..16];
    for part in 0..8 {
        // Six bits each: those of the first four parts lie in bytes of their own, those of the others in nibbles of the last
        // four bytes, and their upper two bits above those of the first.
        let (scale, minimum) = match part {
            0..4 => (packed[part] & 63, packed[part + 4] & 63),
            _ => {
                (packed[part + 4] & 15 | (packed[part - 4] >> 6) << 4, packed[part + 4] >> 4 | (packed[part] >> 6) << 4)
            }
        };
        let (scale, minimum) = (half(block, 0) * f32::from(scale), half(block, 2) * f32::from(minimum));
        for l in 0..32 {
            let byte = block[quants + part / 2 * 32 + l];
            let mut q = if part % 2 == 0 { byte & 15 } else { byte >> 4 };
            if format == Format::Q5K {
                q += 16 * (block[16 + l] >> part & 1);
            }
            let scaled = scale * f32::from(q);
            out.push((scaled - minimum, scaled.abs() + minimum.abs()));
        }
    }
}

/// Blocks of 256 numbers of 6 bits, a scale to 16: 128 bytes of lower nibbles, 64 of upper bits, 16 scales, and theirs.
fn six(block: &[u8], out: &mut Vec<Parts>) {
    for part in 0..8 {
        let (of_half, quarter) = (part / 4, part % 4);
        for l in 0..32 {
            let lower = block[64 * of_half + 32 * (quarter % 2) + l];
            let lower = if quarter < 2 { lower & 15 } else { lower >> 4 };
            let upper = block[128 + 32 * of_half + l] >> (2 * quarter) & 3;
            let q = i32::from(lower | upper << 4) - 32;
            let scale = f32::from(block[192 + 2 * part + l / 16] as i8);
            out.push(plain(half(block, 208) * scale * q as f32));
        }
    }
}
