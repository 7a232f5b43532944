//! How rows of quantised weights lie on a device, which is not how they lie in a file.
//!
//! A file has blocks of 18, 20, 22, 24, 34, 144, 176 or 210 bytes, one after the other: scales amid quants, and most of it
//! across the words that a kernel reads. At load every row is laid out anew, bit for bit the same numbers and as many bytes,
//! up to the next multiple of 16: eight parts of 32 numbers make a *group* of 256, whose *head* holds the scales, the minima
//! and the bits beyond the fourth, each kind by itself, and is followed by the lower bits of one part after the other. So the
//! lower bits of a part are one load of 16 bytes (two of 8 bits each), neighbours read neighbours, and nothing has to know how
//! long a row is. In 16 bytes:
//!
//! | format | head | body of each part |
//! |---|---|---|
//! | q8_0 | 8 scales | 32 numbers of 8 bits in two |
//! | q4_0 | 8 scales | nibbles |
//! | q4_1 | 8 (scale, minimum) in two | nibbles |
//! | q5_0 | 8 scales; 8 words of fifth bits in two | nibbles |
//! | q5_1 | 8 (scale, minimum) in two; 8 words of fifth bits in two | nibbles |
//! | q4_k | scale, minimum, 12 bytes of scales and minima, as in the file | nibbles |
//! | q5_k | as q4_k; 8 words of fifth bits in two | nibbles |
//! | q6_k | 16 scales of 8 bits; 8 pairs of words of upper bits in four; before every eighth group 8 scales | nibbles |
//!
//! Number 4i + b of a part has its lower four bits in byte b of word i, in the lower nibble for i < 4 and in the upper one of
//! word i - 4 else; its fifth bit is bit 8b + i of the part's word; its upper two bits are those from 8b + 2i on of the
//! first word of the pair for i < 4, of the second for i - 4 else. So a shift and a mask get four neighbours at once into the
//! four bytes of a word. What stands for q - 8 (q4_0), q - 16 (q5_0) and q - 32 (q6_k) has its upper bit inverted, which makes it
//! a number in two's complement that shifts extend: the subtraction is done at load.
//!
//! The last group of a row of 32-number blocks may have less than eight parts.

use crate::kernel::Format;

/// Numbers of a part.
pub(crate) const PART: usize = 32;
/// Parts of a group.
pub(crate) const PARTS: usize = 8;
/// Groups that have their scales together, where a group has one scale.
pub(crate) const GROUPS: usize = 8;

/// (bytes of the head of a group, bytes of the body of a part).
pub(crate) fn sizes(format: Format) -> (usize, usize) {
    match format {
        Format::F32 | Format::F16 | Format::BF16 => (0, PART * format.block().1),
        Format::Q8_0 => (16, 32),
        Format::Q4_0 | Format::Q4K => (16, 16),
        Format::Q4_1 => (32, 16),
        Format::Q5_0 | Format::Q5K => (48, 16),
        Format::Q5_1 => (64, 16),
        Format::Q6K => (80, 16),
    }
}

/// Where a group of a row begins, in bytes.
#[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "only a backend reads rows"))]
pub(crate) fn group_start(format: Format, group: usize) -> usize {
    let (head, body) = sizes(format);
    let scales = if format == Format::Q6K { 16 * (group / GROUPS + 1) } else { 0 };
    group * (head + PARTS * body) + scales
}

/// Bytes of a row of a quantised format.
pub(crate) fn row_bytes(format: Format, columns: usize) -> usize {
    let (head, body) = sizes(format);
    let (parts, groups) = (columns.div_ceil(PART), columns.div_ceil(PART * PARTS));
    let scales = if format == Format::Q6K { 16 * groups.div_ceil(GROUPS) } else { 0 };
    parts.saturating_mul(body).saturating_add(groups.saturating_mul(head)).saturating_add(scales)
}

/// Lays out one row. `stored` are its blocks as in a file, `row` its [`Format::row_bytes`], zero.
#[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "only a backend reads rows"))]
pub(crate) fn lay_out(format: Format, stored: &[u8], row: &mut [u8]) {
    let (numbers, bytes) = format.block();
    for (at, block) in stored.chunks_exact(bytes).enumerate() {
        let first_part = at * numbers / PART;
        let (group, part) = (first_part / PARTS, first_part % PARTS);
        // The scale of a group of q6_k stands with those of its neighbours.
        if format == Format::Q6K {
            let scales = group_start(format, group / GROUPS * GROUPS) - 16;
            copy(row, scales + 2 * (group % GROUPS), block, 208..210);
        }
        let start = group_start(format, group);
        let Some(group) = row.get_mut(start..) else { return };
        head(format, block, part, group);
        for (i, part) in (part..).take(numbers / PART).enumerate() {
            body(format, block, i, part, group);
        }
    }
}

fn copy(to: &mut [u8], at: usize, from: &[u8], range: std::ops::Range<usize>) {
    if let (Some(to), Some(from)) = (to.get_mut(at..at + range.len()), from.get(range)) {
        to.copy_from_slice(from);
    }
}

/// The scales of a block.
fn head(format: Format, block: &[u8], part: usize, group: &mut [u8]) {
    match format {
        Format::F32 | Format::F16 | Format::BF16 => (),
        Format::Q8_0 | Format::Q4_0 | Format::Q5_0 => copy(group, 2 * part, block, 0..2),
        Format::Q4_1 | Format::Q5_1 => copy(group, 4 * part, block, 0..4),
        Format::Q4K | Format::Q5K => copy(group, 0, block, 0..16),
        Format::Q6K => copy(group, 0, block, 192..208),
    }
}

/// Part `i` of a block, which is part `part` of its group.
fn body(format: Format, block: &[u8], i: usize, part: usize, group: &mut [u8]) {
    let (head, size) = sizes(format);
    let at = head + size * part;
    let byte = |at: usize| block.get(at).copied().unwrap_or(0);
    if format == Format::Q8_0 {
        return copy(group, at, block, 2..34);
    }
    let mut numbers = [0u8; PART];
    for (l, number) in numbers.iter_mut().enumerate() {
        // Blocks of 32 have number l and l + 16 in one byte, blocks of 256 the same of two neighbouring parts, and those of
        // q6_k of part i and i + 2.
        let nibble = |from: usize| byte(from + l % 16) >> (l / 16 * 4) & 15;
        let of_pair = |from: usize| byte(from + i / 2 * PART + l) >> (i % 2 * 4) & 15;
        *number = match format {
            Format::Q4_0 => nibble(2) ^ 8,
            Format::Q4_1 => nibble(4),
            Format::Q5_0 => (nibble(6) | (byte(2 + l / 8) >> (l % 8) & 1) << 4) ^ 16,
            Format::Q5_1 => nibble(8) | (byte(4 + l / 8) >> (l % 8) & 1) << 4,
            Format::Q4K => of_pair(16),
            Format::Q5K => of_pair(48) | (byte(16 + l) >> i & 1) << 4,
            _ => {
                let lower = byte(i / 4 * 64 + i % 2 * PART + l) >> (i % 4 / 2 * 4) & 15;
                (lower | (byte(128 + i / 4 * PART + l) >> (i % 4 * 2) & 3) << 4) ^ 32
            }
        };
    }
    for (j, (low, high)) in numbers.iter().zip(numbers.iter().skip(PART / 2)).enumerate() {
        put(group, at + j, low & 15 | high << 4);
    }
    for (l, number) in numbers.iter().enumerate() {
        let (quad, b) = (l / 4, l % 4);
        match format {
            // The words of fifth bits are the last of the head.
            Format::Q5_0 | Format::Q5_1 | Format::Q5K => put(group, head - 32 + 4 * part + b, (number >> 4) << quad),
            Format::Q6K => put(group, 16 + 8 * part + quad / 4 * 4 + b, (number >> 4) << (quad % 4 * 2)),
            _ => (),
        }
    }
}

fn put(bytes: &mut [u8], at: usize, bits: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte |= bits;
    }
}
