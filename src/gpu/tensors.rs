//! Tensors of an engine: making them, and writing to them from the host.

use std::sync::atomic::Ordering;

use super::GpuCompute;
use crate::error::{Error, Result};
use crate::pool::Kind;
use crate::tensor::{DType, STAGING_BYTES, Tensor, device_bytes, host_words, to_pitch, to_words};

impl GpuCompute {
    /// A tensor with the given elements.
    ///
    /// # Errors
    /// [`Error::Shape`] if `data` does not have as many elements as `shape`; [`Error::TooLarge`], [`Error::OutOfMemory`]; beyond
    /// 64 MiB, which are sent in parts, [`Error::Timeout`] and [`Error::DeviceLost`].
    pub fn tensor(&self, data: &[f32], shape: &[usize]) -> Result<Tensor> {
        self.upload(bytemuck::cast_slice(data), shape, DType::F32)
    }

    /// A tensor of 32-bit words.
    ///
    /// # Errors
    /// As [`GpuCompute::tensor`].
    pub fn tensor_u32(&self, data: &[u32], shape: &[usize]) -> Result<Tensor> {
        self.upload(bytemuck::cast_slice(data), shape, DType::U32)
    }

    /// A tensor of 16-bit floats.
    ///
    /// # Errors
    /// As [`GpuCompute::tensor`].
    pub fn tensor_f16(&self, data: &[half::f16], shape: &[usize]) -> Result<Tensor> {
        self.upload(bytemuck::cast_slice(data), shape, DType::F16)
    }

    /// A tensor of bfloat16.
    ///
    /// # Errors
    /// As [`GpuCompute::tensor`].
    pub fn tensor_bf16(&self, data: &[half::bf16], shape: &[usize]) -> Result<Tensor> {
        self.upload(bytemuck::cast_slice(data), shape, DType::BF16)
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// As [`GpuCompute::tensor`].
    pub fn zeros(&self, shape: &[usize]) -> Result<Tensor> {
        self.zeros_of(shape, DType::F32)
    }

    pub(crate) fn zeros_of(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let tensor = self.empty(shape, dtype)?;
        // On the host it is zero already.
        let bytes = if self.is_gpu() { tensor.bytes() as usize } else { 0 };
        let block = vec![0; bytes.min(STAGING_BYTES)];
        for start in (0..bytes).step_by(STAGING_BYTES) {
            let count = block.len().min(bytes - start);
            self.write_bytes(&tensor, start as u64, block.get(..count).unwrap_or_default())?;
        }
        Ok(tensor)
    }

    /// A tensor whose contents are whatever was there; zeros on the CPU backend.
    pub(crate) fn empty(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        if self.is_gpu() {
            return self.device_tensor(shape, dtype, false);
        }
        // Checks that the elements can be counted.
        device_bytes(shape, dtype)?;
        Tensor::on_host(host_words(shape.iter().product::<usize>() * dtype.bytes())?, shape, dtype)
    }

    fn upload(&self, bytes: &[u8], shape: &[usize], dtype: DType) -> Result<Tensor> {
        let count = shape.iter().try_fold(1usize, |product, &d| product.checked_mul(d));
        let given = bytes.len() / dtype.bytes();
        if count != Some(given) {
            let message = format!("{given} elements for shape {shape:?}");
            return Err(Error::Shape { op: "tensor", message });
        }
        if self.engine().is_none() {
            return Tensor::on_host(to_words(bytes), shape, dtype);
        }
        let tensor = self.device_tensor(shape, dtype, false)?;
        let padded = to_pitch(bytes, tensor.columns() * dtype.bytes(), tensor.pitch() * dtype.bytes());
        self.write_bytes(&tensor, 0, &padded)?;
        Ok(tensor)
    }

    /// A tensor in a buffer of its own, freed rather than pooled: for weights.
    pub(crate) fn exact_tensor(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        self.device_tensor(shape, dtype, true)
    }

    fn device_tensor(&self, shape: &[usize], dtype: DType, exact: bool) -> Result<Tensor> {
        let engine = self.engine().ok_or(Error::ForeignBuffer { op: "tensor" })?;
        let bytes = device_bytes(shape, dtype)?;
        engine.check_binding(bytes)?;
        let lease = engine.take(|pool| if exact { pool.take_exact(bytes) } else { pool.take(Kind::Storage, bytes) })?;
        Tensor::on_device(lease, 0, shape, dtype)
    }

    /// Writes to a tensor that no unsubmitted pass uses: the bytes arrive after everything submitted so far. wgpu has them in
    /// staging memory until something is submitted, so that happens before there are twice [`STAGING_BYTES`].
    pub(crate) fn write_bytes(&self, tensor: &Tensor, offset: u64, bytes: &[u8]) -> Result<()> {
        let (Some(engine), Some(lease)) = (self.engine(), tensor.lease()) else { return Ok(()) };
        let mut to = tensor.offset + offset;
        for piece in bytes.chunks(STAGING_BYTES) {
            engine.seam.write(&lease.buffer, to, piece)?;
            to += piece.len() as u64;
            let staged = engine.staged.fetch_add(piece.len(), Ordering::Relaxed) + piece.len();
            if staged >= STAGING_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::faults::with_engine;
    use crate::tensor::Tensor;

    #[test]
    fn what_is_written_is_staged_in_parts() {
        with_engine(
            |_| (),
            |gpu, script| {
                // Of many tensors together, and of one: 64 MiB each time, and then it is sent.
                let quarter = vec![1.0; 4 << 20];
                let small: Vec<Tensor> = (0..4).map(|_| gpu.tensor(&quarter, &[4 << 20]).unwrap()).collect();
                assert_eq!(script.submits(), 1);
                // As much as every device binds.
                let large: Vec<f32> = (0..32 << 20).map(|i| i as f32).collect();
                let tensor = gpu.tensor(&large, &[32 << 20]).unwrap();
                assert_eq!(script.submits(), 3);
                assert!(gpu.read::<f32>(&tensor).unwrap() == large);
                assert!(gpu.read::<f32>(&small[3]).unwrap() == quarter);
            },
        );
    }
}
