//! Reading tensors back at the end of a pass.

use super::Pass;
use super::checks::check_home;
use crate::encode::Wanted;
use crate::error::{Error, Result};
use crate::readback::{Fetched, Readback};
use crate::result::AsyncGpuResult;
use crate::tensor::{Storage, Tensor};

impl Pass {
    /// Reads a tensor back as it is at the end of this pass: dense rows of anything that is as large as an element.
    ///
    /// # Errors
    /// [`Error::Shape`] if `T` is not as large as an element, or a caller's buffer was created without `COPY_SRC`;
    /// [`Error::ForeignBuffer`] for a tensor of another device.
    pub fn read<T: bytemuck::Pod + Send>(&mut self, tensor: &Tensor) -> Result<AsyncGpuResult<Vec<T>>> {
        let (shape, pitch) = ((tensor.rows(), tensor.columns()), tensor.pitch());
        self.read_with(tensor, size_of::<T>(), move |fetched| fetched.into_vec(shape, pitch))
    }

    /// [`Pass::read`] without a copy in host memory: for what is large, or looked at once. On a software adapter the device
    /// makes none either, if no handle on the tensor is left when the pass is submitted.
    ///
    /// # Errors
    /// As [`Pass::read`].
    pub fn view<T: bytemuck::Pod + Send>(&mut self, tensor: &Tensor) -> Result<AsyncGpuResult<Readback<T>>> {
        let (shape, pitch) = ((tensor.rows(), tensor.columns()), tensor.pitch());
        self.read_with(tensor, size_of::<T>(), move |fetched| Readback::new(fetched, shape, pitch))
    }

    /// [`Pass::read`] of a tensor of f32 into memory that is there already. `into` has as many elements as the tensor.
    pub(crate) fn read_into(&mut self, tensor: &Tensor, mut into: Vec<f32>) -> Result<AsyncGpuResult<Vec<f32>>> {
        let (columns, pitch) = (tensor.columns(), tensor.pitch());
        self.read_with(tensor, size_of::<f32>(), move |fetched: Fetched| {
            let rows = into.chunks_mut(columns.max(1)).zip(fetched.words().chunks(pitch.max(1)));
            for (row, words) in rows {
                let row: &mut [u32] = bytemuck::cast_slice_mut(row);
                row.copy_from_slice(words.get(..row.len()).unwrap_or_default());
            }
            into
        })
    }

    /// Reads elements of `size` bytes; `convert` gets them with their padding.
    fn read_with<T>(
        &mut self,
        tensor: &Tensor,
        size: usize,
        convert: impl FnOnce(Fetched) -> T + Send + 'static,
    ) -> Result<AsyncGpuResult<T>> {
        let bytes = tensor.dtype().bytes();
        if size != bytes {
            let message = format!("{tensor:?} as elements of {size} bytes; they have {bytes}");
            return Err(Error::Shape { op: "read", message });
        }
        if let (Some(engine), Some(lease)) = (self.gpu.engine(), tensor.lease()) {
            check_home(engine, "read", lease)?;
            lease.check_usage("read", wgpu::BufferUsages::COPY_SRC)?;
        }
        let (result, promise) = AsyncGpuResult::new(convert);
        let result = result.driven_by(self.gpu.driver());
        match &tensor.storage {
            Storage::Host(words) => promise.complete(Ok(Fetched::Host(crate::cpu::copied(words, tensor)))),
            Storage::Device(_) if tensor.bytes() == 0 => promise.complete(Ok(Fetched::Host(Vec::new()))),
            Storage::Device(_) => self.reads.push(Wanted { tensor: tensor.clone(), promise, itself: false }),
        }
        Ok(result)
    }
}
