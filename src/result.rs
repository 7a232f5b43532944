//! A result on its way from the device: a plain future over our own state, completed by the queue's poller.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Locks a mutex whose data is valid at every step, so that a panic elsewhere does not spread.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value that the device is still computing.
///
/// `.await` it on any executor, ask with [`try_get`](Self::try_get), or block with [`wait`](Self::wait). It never panics
/// and it never hangs: a lost device, a refused submission, a dropped pass and a missed deadline all arrive as errors.
/// Dropping it is safe at any time; before its pass is submitted, the readback is then not made at all.
pub struct AsyncGpuResult<T> {
    shared: Arc<Shared>,
    convert: Option<Box<dyn FnOnce(Vec<u8>) -> T + Send>>,
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
    outcome: Option<Result<Vec<u8>>>,
    waker: Option<Waker>,
}

impl<T> AsyncGpuResult<T> {
    /// A result and the promise that will complete it with bytes for `convert`.
    pub(crate) fn new(convert: impl FnOnce(Vec<u8>) -> T + Send + 'static) -> (Self, Promise) {
        let shared = Arc::new(Shared::default());
        let promise = Promise { shared: Arc::clone(&shared), completed: false };
        (AsyncGpuResult { shared, convert: Some(Box::new(convert)) }, promise)
    }

    /// Whether [`try_get`](Self::try_get) would return something.
    pub fn is_ready(&self) -> bool {
        lock(&self.shared.state).outcome.is_some()
    }

    /// The value or its error, once, if it has arrived. Never blocks.
    pub fn try_get(&mut self) -> Option<Result<T>> {
        let outcome = lock(&self.shared.state).outcome.take()?;
        self.finish(outcome)
    }

    fn finish(&mut self, outcome: Result<Vec<u8>>) -> Option<Result<T>> {
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
        let mut state = lock(&self.shared.state);
        loop {
            if let Some(outcome) = state.outcome.take() {
                drop(state);
                return self.finish(outcome).unwrap_or(Err(Error::AlreadyTaken));
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(Error::Timeout { waited: timeout });
            }
            state = self.shared.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<T> Future for AsyncGpuResult<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        if self.convert.is_none() {
            return Poll::Ready(Err(Error::AlreadyTaken));
        }
        let mut state = lock(&self.shared.state);
        let Some(outcome) = state.outcome.take() else {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        drop(state);
        Poll::Ready(self.finish(outcome).unwrap_or(Err(Error::AlreadyTaken)))
    }
}

/// The other end of an [`AsyncGpuResult`]. Dropped uncompleted, it completes with [`Error::NotSubmitted`].
pub(crate) struct Promise {
    shared: Arc<Shared>,
    completed: bool,
}

impl Promise {
    pub(crate) fn complete(mut self, outcome: Result<Vec<u8>>) {
        self.set(outcome);
    }

    /// The result was dropped: nobody will ever look.
    pub(crate) fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }

    fn set(&mut self, outcome: Result<Vec<u8>>) {
        self.completed = true;
        let waker = {
            let mut state = lock(&self.shared.state);
            state.outcome = Some(outcome);
            state.waker.take()
        };
        self.shared.ready.notify_all();
        // Outside the lock: a waker may run anything, and what it breaks is not ours.
        let woken = waker.map(|waker| catch_unwind(AssertUnwindSafe(|| waker.wake())));
        if woken.is_some_and(|outcome| outcome.is_err()) {
            log::error!("the waker of a result panicked");
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.completed {
            self.set(Err(Error::NotSubmitted));
        }
    }
}
