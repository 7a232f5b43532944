//! A pass in a caller's encoder. Programs with a frame of their own cannot use a library that submits: its work would run
//! before theirs, and cost a submission each time. So a pass can be encoded where the caller says. What the caller then
//! knows, and we do not, is when the commands are submitted; that decides when the pool may hand their buffers out again,
//! and so the caller says it, by a [`Recording`].

use std::sync::Arc;

use super::Pass;
use crate::encode;
use crate::error::{Error, Result};
use crate::gpu::{Engine, GpuCompute};
use crate::pool::Lease;

impl Pass {
    /// Records everything into a caller's encoder instead of submitting it, in compute passes of its own. Takes no queue, and
    /// submits, polls and maps nothing; the results are in the tensors once the caller's submission is done.
    ///
    /// What is returned keeps the buffers that the commands use. Say [`Recording::submitted`] when the encoder's commands
    /// are submitted, and write to no tensor of this pass before.
    ///
    /// # Errors
    /// [`Error::Recording`] on the CPU backend and where the pass has readbacks, which nobody would complete;
    /// [`Error::OutOfMemory`] for the parameters. Nothing is recorded then.
    pub fn record(self, encoder: &mut wgpu::CommandEncoder) -> Result<Recording> {
        let gpu = self.gpu.clone();
        encode::record(self.recorder(&gpu)?, &self.steps, encoder)?;
        Ok(self.into_recording())
    }

    /// [`Pass::record`] into a compute pass that the caller has begun. Its pipeline, its bind groups 0 and 1 and its immediates
    /// are others afterwards.
    ///
    /// # Errors
    /// As [`Pass::record`]; [`Error::Recording`] where the pass has copies.
    pub fn record_in(self, compute_pass: &mut wgpu::ComputePass<'_>) -> Result<Recording> {
        let gpu = self.gpu.clone();
        encode::record_in(self.recorder(&gpu)?, &self.steps, compute_pass)?;
        Ok(self.into_recording())
    }

    fn recorder<'a>(&self, gpu: &'a GpuCompute) -> Result<&'a Engine> {
        let engine =
            gpu.engine().ok_or(Error::Recording("this is the CPU backend, where operations have run already"))?;
        if !self.reads.is_empty() {
            return Err(Error::Recording(
                "it has readbacks; copy to a buffer of your own and map that after submitting",
            ));
        }
        Ok(engine)
    }

    fn into_recording(self) -> Recording {
        Recording { leases: self.scratch.into_iter().chain(self.held).collect() }
    }
}

/// Commands in a caller's encoder, and the buffers they use, which the pool must not hand out before the commands are
/// submitted: what is uploaded to a buffer reaches it before anything that is submitted later.
///
/// Dropped without [`Recording::submitted`], be it that the encoder was dropped too or that the call was forgotten, the
/// buffers never go back to the pool. That is safe at any time, and costs their memory until the commands are done.
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute, ops, wgpu};
///
/// let gpu = GpuCompute::new(ComputeBackend::Gpu)?; // or GpuCompute::from_existing(device, queue)
/// let (Some(device), Some(queue)) = (gpu.device(), gpu.queue()) else { return Ok(()) };
/// let mut x = gpu.tensor(&[-1.0, 2.0], &[2])?;
///
/// let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
/// let mut pass = gpu.pass();
/// ops::relu(&mut pass, &mut x)?;
/// let recording = pass.record(&mut encoder)?;
/// assert_eq!(gpu.stats().submits, 0);
/// queue.submit([encoder.finish()]);
/// recording.submitted();
/// assert_eq!(gpu.read::<f32>(&x)?, [0.0, 2.0]);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[must_use = "say `submitted()` when the encoder's commands are submitted; dropped, its buffers are not used again"]
pub struct Recording {
    leases: Vec<Arc<Lease>>,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording").field("buffers", &self.leases.len()).finish()
    }
}

impl Recording {
    /// The commands are on their queue: whatever uses the buffers from now on comes after them.
    pub fn submitted(mut self) {
        self.leases.clear();
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.leases.iter().for_each(|lease| lease.discard());
    }
}
