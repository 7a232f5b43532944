//! Matrices in a stored format: floats rounded to it, or blocks drawn at random, because how numbers become quants is no
//! business of this crate. What they are worth is what [`reference::dequantize`] says.

use super::inputs::{Fill, Inputs};
use crate::error::Result;
use crate::gpu::GpuCompute;
use crate::kernel::Format;
use crate::reference;
use crate::tensor::Weight;

/// A matrix as a file would have it.
pub(crate) struct Stored {
    pub(crate) format: Format,
    /// Dense rows.
    pub(crate) bytes: Vec<u8>,
    /// Its numbers.
    pub(crate) values: Vec<f32>,
    /// |scale q| + |minimum| of each number, of which it is the sum: a product that adds up scaled quants and minima apart has the
    /// error of these.
    pub(crate) magnitudes: Vec<f32>,
}

impl Stored {
    /// A matrix of `columns`, a whole number of blocks. Quantised, its integers are small enough that sums of 4096 products
    /// with others of -8..=8 are exact, its uniform numbers are of the order of 1, and with outliers one block in eight is a
    /// hundred times as large.
    pub(crate) fn draw(inputs: &mut Inputs, fill: Fill, (rows, columns): (usize, usize), format: Format) -> Stored {
        if !format.is_quantized() {
            return Stored::round(inputs.fill(fill, rows * columns, columns), format);
        }
        let count = rows * columns / format.block().0;
        Stored::new((0..count).flat_map(|_| block(inputs, fill, format)).collect(), format)
    }

    /// Floats, rounded to a format that is not quantised.
    pub(crate) fn round(values: Vec<f32>, format: Format) -> Stored {
        let bytes = match format {
            Format::F16 => values.into_iter().flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect(),
            Format::BF16 => values.into_iter().flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect(),
            _ => values.into_iter().flat_map(f32::to_le_bytes).collect(),
        };
        Stored::new(bytes, format)
    }

    /// As a weight, in chunks of at most `max_bytes`.
    pub(crate) fn weight(&self, gpu: &GpuCompute, (rows, columns): (usize, usize), max_bytes: u64) -> Result<Weight> {
        let row = self.format.stored_bytes(columns).unwrap_or(0);
        Weight::from_rows_within(gpu, (rows, columns), self.format, max_bytes, |range| {
            Ok(self.bytes.get(range.start * row..range.end * row).unwrap_or_default().to_vec())
        })
    }

    fn new(bytes: Vec<u8>, format: Format) -> Stored {
        let (values, magnitudes) = reference::dequantize_parts(format, &bytes).into_iter().unzip();
        Stored { format, bytes, values, magnitudes }
    }
}

/// Any quants, and scales to suit.
fn block(inputs: &mut Inputs, fill: Fill, format: Format) -> Vec<u8> {
    let mut block: Vec<u8> = (0..format.block().1).map(|_| inputs.below(256) as u8).collect();
    // Where the scale and the minimum are, in bytes, and the largest that they are multiplied by.
    let (scale_at, minimum_at, largest) = match format {
        Format::Q8_0 => (0, None, 127.0),
        Format::Q4_0 => (0, None, 8.0),
        Format::Q5_0 => (0, None, 16.0),
        Format::Q4_1 => (0, Some(2), 15.0),
        Format::Q5_1 => (0, Some(2), 31.0),
        Format::Q4K => (0, Some(2), 15.0 * 63.0),
        Format::Q5K => (0, Some(2), 31.0 * 63.0),
        _ => (208, None, 32.0 * 128.0),
    };
    let is_large = matches!(format, Format::Q4K | Format::Q5K);
    let size = match fill {
        Fill::Integers => largest,
        Fill::Outliers if inputs.below(8) == 0 => 100.0,
        Fill::Uniform | Fill::Outliers => 0.75 + 0.25 * inputs.unit(),
    };
    let sign = if inputs.below(2) == 0 { 1.0 } else { -1.0 };
    let mut put = |at: usize, value: f32| {
        let bytes = half::f16::from_f32(value).to_le_bytes();
        block[at..at + 2].copy_from_slice(&bytes);
    };
    put(scale_at, sign * size / largest);
    if let Some(at) = minimum_at {
        // About half of the largest number on the other side, as quantisers have it, or any small integer.
        let minimum = match fill {
            Fill::Integers => inputs.below(17) as f32 - 8.0,
            _ => (0.5 + 0.1 * inputs.unit()) * size,
        };
        put(
            at,
            if is_large && fill == Fill::Integers {
                1.0
            } else if is_large {
                sign * minimum / 63.0
            } else {
                -sign * minimum
            },
        );
    }
    if fill == Fill::Integers {
        match format {
            // Scales and minima below 8, or 16.
            Format::Q4K | Format::Q5K => block[4..12].iter_mut().for_each(|byte| *byte &= 7),
            Format::Q6K => block[192..208].iter_mut().for_each(|byte| *byte = (*byte & 15).wrapping_sub(8)),
            _ => (),
        }
    }
    block
}
