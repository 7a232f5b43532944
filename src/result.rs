//! A result on its way from the device: a plain future over our own state, completed by the queue's poller.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::queue::Driver;
use crate::readback::Fetched;

/// Between two looks at a result that nothing in flight will complete: its pass may be submitted by another thread.
const PAUSE: Duration = Duration::from_millis(1);

/// Locks a mutex whose data is valid at every step, so that a panic elsewhere does not spread.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value that the device is still computing.
///
/// `.await` it on any executor, ask with [`try_get`](Self::try_get), or block with [`wait`](Self::wait). It never panics
/// and it never hangs: a lost device, a refused submission, a dropped pass and a missed deadline all arrive as errors.
/// Dropping it is safe at any time; before its pass is submitted, the readback is then not made at all.
///
/// On a device of ours a thread of ours polls. On a caller's device nobody does unless asked (see
/// [`Options::poller`](crate::Options::poller)): there [`wait`](Self::wait) polls while it waits, and a task that awaits goes
/// on when the caller polls the device, as an application with a frame loop does anyway.
///
/// ```
/// use std::time::Duration;
/// use gristmill::{ComputeBackend, GpuCompute, ops};
///
/// let gpu = GpuCompute::new(ComputeBackend::Gpu)?;
/// let mut x = gpu.tensor(&[-1.0, 2.0, -3.0], &[3])?;
/// let mut pass = gpu.pass();
/// ops::relu(&mut pass, &mut x)?;
/// let result = pass.read::<f32>(&x)?; // a future: `.await` it in a task
/// pass.submit()?;
/// // Here the host may do something else.
/// assert_eq!(result.wait(Duration::from_secs(60))?, [0.0, 2.0, 0.0]);
/// # Ok::<(), gristmill::Error>(())
/// ```
pub struct AsyncGpuResult<T> {
    shared: Arc<Shared>,
    /// Where no thread polls.
    driver: Option<Driver>,
    convert: Option<Box<dyn FnOnce(Fetched) -> T + Send>>,
}

impl<T> std::fmt::Debug for AsyncGpuResult<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AsyncGpuResult").field("ready", &self.is_ready()).finish()
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    outcome: Option<Result<Fetched>>,
    waker: Option<Waker>,
}

impl<T> AsyncGpuResult<T> {
    /// A result and the promise that will complete it with what `convert` takes.
    pub(crate) fn new(convert: impl FnOnce(Fetched) -> T + Send + 'static) -> (Self, Promise) {
        let shared = Arc::new(Shared::default());
        let promise = Promise { shared: Arc::clone(&shared), completed: false };
        (AsyncGpuResult { shared, driver: None, convert: Some(Box::new(convert)) }, promise)
    }

    /// On an engine without a thread that polls.
    pub(crate) fn driven_by(mut self, driver: Option<Driver>) -> Self {
        self.driver = driver;
        self
    }

    /// Takes note of what the device has reported, where no thread does. Never asks it.
    fn settle(&self) {
        if let Some(driver) = &self.driver {
            driver.settle();
        }
    }

    /// Whether [`try_get`](Self::try_get) would return something.
    pub fn is_ready(&self) -> bool {
        self.settle();
        lock(&self.shared.state).outcome.is_some()
    }

    /// The value or its error, once, if it has arrived. Never blocks.
    pub fn try_get(&mut self) -> Option<Result<T>> {
        self.settle();
        let outcome = lock(&self.shared.state).outcome.take()?;
        self.finish(outcome)
    }

    fn finish(&mut self, outcome: Result<Fetched>) -> Option<Result<T>> {
        let convert = self.convert.take()?;
        Some(outcome.map(convert))
    }

    /// Blocks until the value has arrived, for at most `timeout`.
    ///
    /// # Errors
    /// [`Error::Timeout`] after `timeout`; [`Error::AlreadyTaken`] if [`try_get`](Self::try_get) had it; whatever went wrong on the device.
    pub fn wait(mut self, timeout: Duration) -> Result<T> {
        if self.convert.is_none() {
            return Err(Error::AlreadyTaken);
        }
        let start = Instant::now();
        loop {
            let mut state = lock(&self.shared.state);
            if let Some(outcome) = state.outcome.take() {
                drop(state);
                return self.finish(outcome).unwrap_or(Err(Error::AlreadyTaken));
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(Error::Timeout { waited: timeout });
            }
            let pause = match &self.driver {
                None => left,
                Some(driver) => {
                    drop(state);
                    if driver.drive(left) {
                        continue;
                    }
                    state = lock(&self.shared.state);
                    left.min(PAUSE)
                }
            };
            if state.outcome.is_none() {
                drop(self.shared.ready.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }
}

impl<T> Future for AsyncGpuResult<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        if self.convert.is_none() {
            return Poll::Ready(Err(Error::AlreadyTaken));
        }
        // Before the look, so that what is reported in between wakes the task.
        lock(&self.shared.state).waker = Some(context.waker().clone());
        self.settle();
        let Some(outcome) = lock(&self.shared.state).outcome.take() else { return Poll::Pending };
        Poll::Ready(self.finish(outcome).unwrap_or(Err(Error::AlreadyTaken)))
    }
}

/// Called outside every lock: a waker may run anything, and what it breaks is not ours.
pub(crate) fn wake(waker: Option<Waker>) {
    let woken = waker.map(|waker| catch_unwind(AssertUnwindSafe(|| waker.wake())));
    if woken.is_some_and(|outcome| outcome.is_err()) {
        log::error!("the waker of a result panicked");
    }
}

/// The other end of an [`AsyncGpuResult`]. Dropped uncompleted, it completes with [`Error::NotSubmitted`].
pub(crate) struct Promise {
    shared: Arc<Shared>,
    completed: bool,
}

impl Promise {
    pub(crate) fn complete(self, outcome: Result<Fetched>) {
        wake(self.fulfil(outcome));
    }

    /// [`Promise::complete`] without waking the task, which is returned: for those who hold a lock.
    #[must_use]
    pub(crate) fn fulfil(mut self, outcome: Result<Fetched>) -> Option<Waker> {
        self.set(outcome);
        self.waker()
    }

    /// The result was dropped: nobody will ever look.
    pub(crate) fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    fn set(&mut self, outcome: Result<Fetched>) {
        self.completed = true;
        lock(&self.shared.state).outcome = Some(outcome);
        self.shared.ready.notify_all();
    }

    /// The task that waits, to be told once.
    pub(crate) fn waker(&self) -> Option<Waker> {
        lock(&self.shared.state).waker.take()
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.completed {
            self.set(Err(Error::NotSubmitted));
            wake(self.waker());
        }
    }
}
