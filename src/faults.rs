//! Faults on demand: a [`Seam`] that forwards to the real device and fails where a [`Script`] says so, and the helpers of
//! the tests that use it. No driver loses its device or refuses a submission when asked to.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::gpu::{ComputeBackend, GpuCompute, Options};
use crate::pass::Pass;
use crate::queue::seam::{OnDone, OnMapped, Seam, Ticket};
use crate::result::{AsyncGpuResult, lock};
use crate::tensor::Tensor;
use crate::{ops, reference};

/// The bound of every wait: far beyond what anything here takes, so that only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// A deadline for the tests in which it passes.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// How a map goes wrong.
#[derive(Clone, Copy)]
pub(crate) enum MapFault {
    /// The callback reports a failure.
    Refused,
    /// The callback never comes.
    Silent,
}

type Hook = Box<dyn FnOnce() + Send>;

/// What goes wrong, and a record of what was asked for.
#[derive(Default)]
pub(crate) struct Script {
    /// Errors of the next buffer creations.
    pub(crate) buffer_errors: Mutex<VecDeque<Error>>,
    /// Errors of the next submissions.
    pub(crate) submit_errors: Mutex<VecDeque<Error>>,
    /// Faults of the next maps.
    pub(crate) map_faults: Mutex<VecDeque<MapFault>>,
    /// Runs once, after the device has accepted a submission and before the queue knows.
    pub(crate) after_submit: Mutex<Option<Hook>>,
    /// Polls find nothing done.
    pub(crate) gate_closed: AtomicBool,
    /// Every poll panics, as wgpu's does on a lost device.
    pub(crate) poll_panics: AtomicBool,
    /// The next look into a mapped buffer panics.
    pub(crate) take_panics: AtomicBool,
    lost: OnceLock<String>,
    submits: AtomicU64,
    polls: AtomicU64,
    maps: AtomicU64,
    taken: AtomicU64,
    most_in_flight: AtomicU64,
}

fn next<T>(faults: &Mutex<VecDeque<T>>) -> Option<T> {
    lock(faults).pop_front()
}

impl Script {
    pub(crate) fn lose(&self, reason: &str) {
        let _ = self.lost.set(reason.to_owned());
    }

    pub(crate) fn close_gate(&self) {
        self.gate_closed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn open_gate(&self) {
        self.gate_closed.store(false, Ordering::SeqCst);
    }

    /// Submissions that the device accepted.
    pub(crate) fn submits(&self) -> u64 {
        self.submits.load(Ordering::SeqCst)
    }

    pub(crate) fn polls(&self) -> u64 {
        self.polls.load(Ordering::SeqCst)
    }

    pub(crate) fn maps(&self) -> u64 {
        self.maps.load(Ordering::SeqCst)
    }

    /// Readbacks handed over.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }

    /// The most submissions in flight so far, where each has one readback.
    pub(crate) fn most_in_flight(&self) -> u64 {
        self.most_in_flight.load(Ordering::SeqCst)
    }
}

struct FaultySeam {
    inner: Arc<dyn Seam>,
    script: Arc<Script>,
}

impl FaultySeam {
    fn check_lost(&self) -> Result<()> {
        self.lost().map_or(Ok(()), |reason| Err(Error::DeviceLost { reason }))
    }
}

impl Seam for FaultySeam {
    fn create_buffer(&self, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        self.check_lost()?;
        next(&self.script.buffer_errors).map_or_else(|| self.inner.create_buffer(bytes, usage), Err)
    }

    fn create_filled(&self, contents: &[u8], usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        self.check_lost()?;
        next(&self.script.buffer_errors).map_or_else(|| self.inner.create_filled(contents, usage), Err)
    }

    fn write(&self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        self.inner.write(buffer, offset, bytes)
    }

    fn submit(&self, record: &mut dyn FnMut(&wgpu::Device) -> wgpu::CommandBuffer, on_done: OnDone) -> Result<Ticket> {
        self.check_lost()?;
        let ticket = next(&self.script.submit_errors).map_or_else(|| self.inner.submit(record, on_done), Err)?;
        let submitted = self.script.submits.fetch_add(1, Ordering::SeqCst) + 1;
        self.script.most_in_flight.fetch_max(submitted - self.script.taken(), Ordering::SeqCst);
        if let Some(hook) = lock(&self.script.after_submit).take() {
            hook();
        }
        Ok(ticket)
    }

    fn poll(&self, until: &Ticket, timeout: Duration) -> Result<bool> {
        self.script.polls.fetch_add(1, Ordering::SeqCst);
        assert!(!self.script.poll_panics.load(Ordering::SeqCst), "an injected panic");
        if self.script.gate_closed.load(Ordering::SeqCst) {
            std::thread::sleep(timeout.min(Duration::from_millis(2)));
            return Ok(false);
        }
        self.inner.poll(until, timeout)
    }

    fn map(&self, buffer: &wgpu::Buffer, bytes: u64, done: OnMapped) {
        self.script.maps.fetch_add(1, Ordering::SeqCst);
        match next(&self.script.map_faults) {
            None => self.inner.map(buffer, bytes, done),
            Some(MapFault::Refused) => done(false),
            Some(MapFault::Silent) => drop(done),
        }
    }

    fn view(&self, buffer: &wgpu::Buffer, bytes: u64) -> Result<wgpu::BufferView> {
        self.script.taken.fetch_add(1, Ordering::SeqCst);
        assert!(!self.script.take_panics.swap(false, Ordering::SeqCst), "an injected panic");
        self.inner.view(buffer, bytes)
    }

    fn lost(&self) -> Option<String> {
        self.script.lost.get().cloned().or_else(|| self.inner.lost())
    }
}

/// An engine of its own behind a scripted seam. `None` where there is no adapter, which is said aloud, and which fails
/// where `GRISTMILL_REQUIRE_ADAPTER=1` promises one.
pub(crate) fn open(change: impl FnOnce(&mut Options)) -> Option<(GpuCompute, Arc<Script>)> {
    let mut options = Options::new(ComputeBackend::Gpu);
    options.deadline = PATIENCE;
    change(&mut options);
    let script = Arc::new(Script::default());
    let wrap = |inner| Arc::new(FaultySeam { inner, script: Arc::clone(&script) }) as Arc<dyn Seam>;
    match pollster::block_on(GpuCompute::open_with(&options, wrap)) {
        Ok(gpu) => Some((gpu, script)),
        Err(error) if std::env::var("GRISTMILL_REQUIRE_ADAPTER").is_ok_and(|v| v == "1") => {
            panic!("GRISTMILL_REQUIRE_ADAPTER=1, and: {error}")
        }
        Err(error) => {
            eprintln!("SKIPPED, not passed: {error}");
            None
        }
    }
}

/// Runs a test on an engine of its own, on a thread of its own: a hang fails after a while instead of stopping everything.
pub(crate) fn with_engine(
    change: impl FnOnce(&mut Options) + Send + 'static,
    test: impl FnOnce(GpuCompute, Arc<Script>) + Send + 'static,
) {
    let (done, finished) = mpsc::channel();
    let runner = std::thread::spawn(move || {
        if let Some((gpu, script)) = open(change) {
            test(gpu, script);
        }
        let _ = done.send(());
    });
    let waited = finished.recv_timeout(4 * PATIENCE);
    assert!(waited != Err(mpsc::RecvTimeoutError::Timeout), "the test hangs");
    if let Err(panic) = runner.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Waits until something that another thread does is done.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The error that stands for wgpu refusing a call.
pub(crate) fn refused() -> Error {
    Error::Validation { what: "a test".to_owned(), message: "injected".to_owned() }
}

/// A matrix product of small integers, exact in f32 in any order: one right answer.
pub(crate) struct Product {
    pub(crate) a: Tensor,
    pub(crate) b: Tensor,
    right: Vec<f32>,
}

impl Product {
    const SHAPE: (usize, usize, usize) = (5, 7, 6);

    pub(crate) fn new(gpu: &GpuCompute, seed: usize) -> Product {
        let (m, k, n) = Self::SHAPE;
        let integers = |count: usize, step: usize| -> Vec<f32> {
            (0..count).map(|i| ((i + seed) * step % 17) as f32 - 8.0).collect()
        };
        let (a, b) = (integers(m * k, 5), integers(k * n, 7));
        let right = reference::matmul(&a, &b, Self::SHAPE).iter().map(|&v| v as f32).collect();
        let upload = |data: &[f32], shape: [usize; 2]| gpu.tensor(data, &shape).expect("an upload");
        Product { a: upload(&a, [m, k]), b: upload(&b, [k, n]), right }
    }

    /// Records the product and reads it back.
    pub(crate) fn record(&self, pass: &mut Pass) -> Result<AsyncGpuResult<Vec<f32>>> {
        let (m, _, n) = Self::SHAPE;
        let mut out = pass.tensor(&[m, n])?;
        ops::matmul(pass, &self.a, &self.b, &mut out)?;
        pass.read(&out)
    }

    pub(crate) fn submit(&self, gpu: &GpuCompute) -> Result<AsyncGpuResult<Vec<f32>>> {
        let mut pass = gpu.pass();
        let result = self.record(&mut pass)?;
        pass.submit()?;
        Ok(result)
    }

    /// Waits for a result of this product, which must be the right one.
    pub(crate) fn expect(&self, result: AsyncGpuResult<Vec<f32>>) {
        assert_eq!(result.wait(PATIENCE).expect("a result"), self.right);
    }

    /// Does it all: the engine works.
    pub(crate) fn check(&self, gpu: &GpuCompute) {
        self.expect(self.submit(gpu).expect("a submission"));
    }
}
