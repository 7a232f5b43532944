//! The seam: every call that can fail because of the device goes through one small trait.
//!
//! [`WgpuSeam`] is the only implementation in the product. The tests wrap it and make buffers fail, submissions be refused,
//! polls panic and devices vanish, which no real driver does on demand. What wgpu 30 does in those cases: `submit` returns
//! an index even for a refused submission, `poll` panics on a lost device, and the callbacks of pending maps then never
//! fire. So errors are caught in scopes here, and our futures complete from our own state (`queue.rs`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Duration, Instant};

use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::pool::Lease;

/// Held to write while a device is created, and to read while a pipeline is: wgpu 30 crashes when threads do both at once.
/// Pipelines beside each other are safe.
pub(crate) static CREATING: RwLock<()> = RwLock::new(());

/// Between two questions whether the device is done, at least.
fn shortest_pause(device: &wgpu::Device) -> Duration {
    // A software adapter computes on the cores that would ask.
    let software = device.adapter_info().device_type == wgpu::DeviceType::Cpu;
    Duration::from_micros(if software { 100 } else { 20 })
}

/// Called once when a map succeeded (`true`) or failed.
pub(crate) type OnMapped = Box<dyn FnOnce(bool) + Send>;

/// Called once when a submission is done.
pub(crate) type OnDone = Box<dyn FnOnce() + Send>;

/// A submission, by which it can be waited for.
#[derive(Clone, Default)]
pub(crate) struct Ticket(Arc<AtomicBool>);

impl Ticket {
    /// The device has said that it is done with it.
    pub(crate) fn is_done(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Whether both are of one submission.
    pub(crate) fn is(&self, other: &Ticket) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A readback buffer that is mapped, until this is dropped.
pub(crate) struct Mapped {
    view: Option<wgpu::BufferView>,
    staging: Arc<Lease>,
}

impl Mapped {
    /// Takes the contents of a buffer that was mapped. It is unmapped even where that fails.
    pub(crate) fn take(seam: &dyn Seam, staging: Arc<Lease>, bytes: u64) -> Result<Mapped> {
        let mut mapped = Mapped { view: None, staging };
        mapped.view = Some(seam.view(&mapped.staging.buffer, bytes)?);
        Ok(mapped)
    }

    /// Mapped memory is aligned to more than a word.
    pub(crate) fn words(&self) -> &[u32] {
        self.view.as_deref().and_then(|bytes| bytemuck::try_cast_slice(bytes).ok()).unwrap_or_default()
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.view = None;
        // Whoever holds a result may be unwinding, and wgpu may panic on a lost device.
        if catch_unwind(AssertUnwindSafe(|| self.staging.buffer.unmap())).is_err() {
            self.staging.discard();
        }
    }
}

/// What the engine asks of a device.
pub(crate) trait Seam: Send + Sync {
    /// A new buffer. Errors are returned, the device stays usable.
    fn create_buffer(&self, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer>;
    /// A new buffer with these contents, as a whole number of words. No queue has a part in it.
    fn create_filled(&self, contents: &[u8], usage: wgpu::BufferUsages) -> Result<wgpu::Buffer>;
    /// Copies `bytes` into a buffer, after everything submitted so far and before everything submitted later.
    fn write(&self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Records and submits. An error means that nothing of it runs.
    fn submit(&self, record: &mut dyn FnMut(&wgpu::Device) -> wgpu::CommandBuffer, on_done: OnDone) -> Result<Ticket>;
    /// Whether the submission is done, after waiting for at most `timeout`. May panic.
    fn poll(&self, until: &Ticket, timeout: Duration) -> Result<bool>;
    /// Asks for a readback buffer to be mapped.
    fn map(&self, buffer: &wgpu::Buffer, bytes: u64, done: OnMapped);
    /// What a mapped buffer holds, to be dropped before the buffer is unmapped.
    fn view(&self, buffer: &wgpu::Buffer, bytes: u64) -> Result<wgpu::BufferView>;
    /// Why the device is lost, if it is.
    fn lost(&self) -> Option<String>;
}

/// The seam of a real device.
pub(crate) struct WgpuSeam {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    lost: Arc<OnceLock<String>>,
    counters: Arc<Counters>,
    shortest_pause: Duration,
}

impl WgpuSeam {
    /// The seam of a device that is somebody else's: its handlers stay theirs, and so nobody tells us of a loss. A poll
    /// that panics does, and otherwise the deadline.
    pub(crate) fn borrowed(device: wgpu::Device, queue: wgpu::Queue, counters: Arc<Counters>) -> WgpuSeam {
        let shortest_pause = shortest_pause(&device);
        WgpuSeam { device, queue, lost: Arc::default(), counters, shortest_pause }
    }

    /// Takes over a device we own: from here on its errors are ours.
    pub(crate) fn owned(device: wgpu::Device, queue: wgpu::Queue, counters: Arc<Counters>) -> WgpuSeam {
        let lost = Arc::new(OnceLock::new());
        // Both handlers may only store and return: the second runs under wgpu's locks.
        device.on_uncaptured_error(Arc::new(|error: wgpu::Error| log::error!("uncaptured wgpu error: {error}")));
        let on_lost = Arc::clone(&lost);
        device.set_device_lost_callback(move |reason, message| {
            let _ = on_lost.set(format!("{reason:?}: {message}"));
        });
        let shortest_pause = shortest_pause(&device);
        WgpuSeam { device, queue, lost, counters, shortest_pause }
    }

    /// Runs `call` and returns the first error wgpu reports for it. Scopes are per thread, so other threads' errors stay
    /// theirs.
    pub(crate) fn scoped<T>(&self, what: &str, bytes: u64, call: impl FnOnce(&wgpu::Device) -> T) -> Result<T> {
        if let Some(reason) = self.lost() {
            return Err(Error::DeviceLost { reason });
        }
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let value = call(&self.device);
        let errors = [internal.pop(), memory.pop(), validation.pop()].map(pollster::block_on);
        match errors.into_iter().flatten().next() {
            None => Ok(value),
            Some(wgpu::Error::OutOfMemory { .. }) => Err(Error::OutOfMemory { bytes, context: what.to_owned() }),
            Some(error) => Err(Error::Validation { what: what.to_owned(), message: error.to_string() }),
        }
    }
}

impl Seam for WgpuSeam {
    fn create_buffer(&self, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        Counters::add(&self.counters.buffers_created, 1);
        let descriptor = wgpu::BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false };
        self.scoped("create_buffer", bytes, |device| device.create_buffer(&descriptor))
    }

    fn create_filled(&self, contents: &[u8], usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        Counters::add(&self.counters.buffers_created, 1);
        Counters::add(&self.counters.bytes_uploaded, contents.len() as u64);
        let size = contents.len() as u64;
        let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: true };
        let filled = self.scoped("create_buffer", size, |device| device.create_buffer(&descriptor))?;
        let refused =
            |e: wgpu::MapRangeError| Error::Validation { what: "get_mapped_range".to_owned(), message: e.to_string() };
        filled.slice(..).get_mapped_range_mut().map_err(refused)?.copy_from_slice(contents);
        filled.unmap();
        Ok(filled)
    }

    fn write(&self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        Counters::add(&self.counters.bytes_uploaded, bytes.len() as u64);
        self.scoped("write_buffer", bytes.len() as u64, |_| self.queue.write_buffer(buffer, offset, bytes))
    }

    fn submit(&self, record: &mut dyn FnMut(&wgpu::Device) -> wgpu::CommandBuffer, on_done: OnDone) -> Result<Ticket> {
        Counters::add(&self.counters.submits, 1);
        self.scoped("submit", 0, |device| {
            let ticket = Ticket::default();
            self.queue.submit([record(device)]);
            let done = Arc::clone(&ticket.0);
            self.queue.on_submitted_work_done(move || {
                done.store(true, Ordering::Release);
                on_done();
            });
            ticket
        })
    }

    /// Asks again and again instead of using wgpu's own wait, which panics in 30.0.1 where it times out while another
    /// thread submits (wgpu#9958), and which holds a lock meanwhile that freeing a buffer needs.
    fn poll(&self, until: &Ticket, timeout: Duration) -> Result<bool> {
        let start = Instant::now();
        loop {
            Counters::add(&self.counters.polls, 1);
            let polled = self.device.poll(wgpu::PollType::Poll);
            if until.is_done() {
                return Ok(true);
            }
            if let Err(error) = polled {
                return Err(Error::Validation { what: "poll".to_owned(), message: error.to_string() });
            }
            let waited = start.elapsed();
            if waited >= timeout {
                return Ok(false);
            }
            // What came a moment ago may be done in a moment: the pauses grow with the time waited, a thirtieth of which is lost
            // at most.
            std::thread::sleep((waited / 32).max(self.shortest_pause));
        }
    }

    fn map(&self, buffer: &wgpu::Buffer, bytes: u64, done: OnMapped) {
        Counters::add(&self.counters.maps, 1);
        buffer.slice(..bytes).map_async(wgpu::MapMode::Read, move |result| done(result.is_ok()));
    }

    fn view(&self, buffer: &wgpu::Buffer, bytes: u64) -> Result<wgpu::BufferView> {
        Counters::add(&self.counters.bytes_downloaded, bytes);
        let refused = |error: wgpu::MapRangeError| Error::Validation {
            what: "get_mapped_range".to_owned(),
            message: error.to_string(),
        };
        buffer.slice(..bytes).get_mapped_range().map_err(refused)
    }

    fn lost(&self) -> Option<String> {
        self.lost.get().cloned()
    }
}
