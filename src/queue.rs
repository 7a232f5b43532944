//! The submission queue: a fixed number of submissions in flight, one poller thread, and results that always arrive.
//!
//! Submission is inline, under one mutex: whoever submits waits for room first (backpressure). The poller waits for the
//! oldest submission in slices of [`POLL_SLICE`], copies what was read back, and completes the futures. Nobody else polls,
//! so nobody else can be caught in wgpu's panic on a lost device. The deadline restarts whenever a submission completes:
//! a long queue is not a hang, a stuck submission is.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::pool::Lease;
use crate::result::{Promise, lock};
use crate::seam::{Seam, Ticket};

/// How long one wait of the poller may take before it looks at deadlines and losses.
const POLL_SLICE: Duration = Duration::from_millis(2);
/// How long dropping an engine may wait for work in flight.
const DRAIN: Duration = Duration::from_secs(10);

/// A readback: a staging buffer, how much of it, and who waits.
pub(crate) struct Read {
    pub(crate) staging: Arc<Lease>,
    pub(crate) bytes: u64,
    pub(crate) promise: Promise,
}

/// One submission in flight.
struct Job {
    ticket: Ticket,
    reads: Vec<Mapping>,
    /// The device is done with it.
    fenced: bool,
    /// Its waiters were told `Timeout`; its buffers stay until the fence.
    expired: bool,
}

impl Job {
    /// Gives up its waiters, not its buffers.
    fn expire(&mut self) -> Vec<Promise> {
        self.expired = true;
        self.reads.iter_mut().filter_map(|read| read.promise.take()).collect()
    }

    /// Tells its waiters. Its readback buffers are not used again: what the device does to them is not known.
    fn fail(self, error: &Error) {
        for read in self.reads {
            read.staging.discard();
            if let Some(promise) = read.promise {
                promise.complete(Err(error.clone()));
            }
        }
    }
}

struct Mapping {
    staging: Arc<Lease>,
    bytes: u64,
    mapped: Arc<OnceLock<bool>>,
    promise: Option<Promise>,
}

struct State {
    jobs: VecDeque<Job>,
    failed: Option<Error>,
    stopping: bool,
    last_progress: Instant,
}

struct Shared {
    seam: Arc<dyn Seam>,
    /// Held while submitting, so that submissions enter `jobs` in the order the device sees them.
    submitting: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
    depth: usize,
    deadline: Duration,
}

/// See the module's text. Dropping it drains what is in flight, for at most ten seconds.
pub(crate) struct SubmissionQueue {
    shared: Arc<Shared>,
    poller: Option<JoinHandle<()>>,
}

impl SubmissionQueue {
    /// A queue of at most `depth` submissions in flight.
    pub(crate) fn new(seam: Arc<dyn Seam>, depth: usize, deadline: Duration) -> Result<SubmissionQueue> {
        let state = State { jobs: VecDeque::new(), failed: None, stopping: false, last_progress: Instant::now() };
        let shared = Arc::new(Shared {
            seam,
            submitting: Mutex::new(()),
            state: Mutex::new(state),
            changed: Condvar::new(),
            depth: depth.max(1),
            deadline,
        });
        let poller = std::thread::Builder::new()
            .name("gristmill-poller".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run()
            })
            .map_err(|e| Error::OutOfMemory { bytes: 0, context: format!("the poller thread: {e}") })?;
        Ok(SubmissionQueue { shared, poller: Some(poller) })
    }

    /// Waits for room, lets `prepare` write to buffers, records and submits. Waits that an error makes pointless end with
    /// that error; so do the promises of `reads`.
    pub(crate) fn submit(
        &self,
        reads: Vec<Read>,
        prepare: impl FnOnce(&dyn Seam),
        record: &mut dyn FnMut(&wgpu::Device) -> wgpu::CommandBuffer,
    ) -> Result<()> {
        let shared = &self.shared;
        let turn = lock(&shared.submitting);
        let submitted = shared.wait_for_room().and_then(|()| {
            prepare(shared.seam.as_ref());
            shared.seam.submit(record)
        });
        let ticket = match submitted {
            Ok(ticket) => ticket,
            Err(error) => {
                // Completing wakes tasks, and a task may submit.
                drop(turn);
                for read in reads {
                    read.promise.complete(Err(error.clone()));
                }
                return Err(error);
            }
        };
        let reads = reads.into_iter().map(|read| shared.map(read)).collect();
        let job = Job { ticket, reads, fenced: false, expired: false };
        let mut state = lock(&shared.state);
        if let Some(error) = state.failed.clone() {
            // The poller gave up while we were submitting. Nobody would look at this job any more.
            drop((state, turn));
            job.fail(&error);
            return Err(error);
        }
        if state.jobs.is_empty() {
            state.last_progress = Instant::now();
        }
        state.jobs.push_back(job);
        shared.changed.notify_all();
        Ok(())
    }

    /// Waits until nothing is in flight.
    pub(crate) fn drain(&self) -> Result<()> {
        self.shared.wait_until(|jobs| jobs == 0)
    }
}

impl Drop for SubmissionQueue {
    fn drop(&mut self) {
        lock(&self.shared.state).stopping = true;
        self.shared.changed.notify_all();
        let Some(poller) = self.poller.take() else { return };
        // A waker may own the last handle, and wakers run on the poller: it cannot wait for itself, and ends by itself.
        if poller.thread().id() != std::thread::current().id() {
            let _ = poller.join();
        }
    }
}

impl Shared {
    fn wait_for_room(&self) -> Result<()> {
        let depth = self.depth;
        self.wait_until(|jobs| jobs < depth)
    }

    /// Blocks until `enough(jobs in flight)`; an error once the engine failed or nothing completed for the deadline.
    fn wait_until(&self, enough: impl Fn(usize) -> bool) -> Result<()> {
        let mut state = lock(&self.state);
        loop {
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            if let Some(reason) = self.seam.lost() {
                return Err(Error::DeviceLost { reason });
            }
            if enough(state.jobs.len()) {
                return Ok(());
            }
            let left = self.deadline.saturating_sub(state.last_progress.elapsed());
            if left.is_zero() {
                return Err(Error::Timeout { waited: self.deadline });
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn map(&self, read: Read) -> Mapping {
        let mapped = Arc::new(OnceLock::new());
        let done = Arc::clone(&mapped);
        // The callback may run inside any wgpu call: it stores and returns.
        self.seam.map(
            &read.staging.buffer,
            read.bytes,
            Box::new(move |ok| {
                let _ = done.set(ok);
            }),
        );
        Mapping { staging: read.staging, bytes: read.bytes, mapped, promise: Some(read.promise) }
    }

    /// The poller.
    fn run(&self) {
        let mut stopped_at = None;
        while let Some(ticket) = self.oldest(&mut stopped_at) {
            let polled = catch_unwind(AssertUnwindSafe(|| self.seam.poll(&ticket, POLL_SLICE)));
            let lost = self.seam.lost().map(|reason| Error::DeviceLost { reason });
            let step = match (lost, polled) {
                (Some(error), _) | (None, Ok(Err(error))) => Err(error),
                (None, Err(_)) => Err(Error::DeviceLost { reason: "wgpu panicked while polling".to_owned() }),
                (None, Ok(Ok(done))) => catch_unwind(AssertUnwindSafe(|| self.settle(done)))
                    .map_err(|_| Error::DeviceLost { reason: "the poller panicked".to_owned() }),
            };
            if let Err(error) = step {
                return self.fail(&error);
            }
        }
        if !lock(&self.state).jobs.is_empty() {
            self.fail(&Error::Timeout { waited: DRAIN });
        }
    }

    /// The ticket of the oldest submission; waits while there is none. `None`: the engine is being dropped and everything
    /// is done, or stuck, or the time for that is over.
    fn oldest(&self, stopped_at: &mut Option<Instant>) -> Option<Ticket> {
        let mut state = lock(&self.state);
        loop {
            if state.stopping {
                let since = *stopped_at.get_or_insert_with(Instant::now);
                if state.jobs.front().is_none_or(|job| job.expired) || since.elapsed() > DRAIN {
                    return None;
                }
            }
            if let Some(job) = state.jobs.front() {
                return Some(job.ticket.clone());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes note of one poll of the oldest submission.
    fn settle(&self, done: bool) {
        let mut state = lock(&self.state);
        let overdue = state.last_progress.elapsed() > self.deadline;
        let Some(job) = state.jobs.front_mut() else { return };
        job.fenced |= done;
        let fenced = job.fenced;
        // After the deadline the fence alone will do: a map that never calls back must not hold up what comes after it.
        if fenced && (job.expired || job.reads.iter().all(|read| read.mapped.get().is_some())) {
            return self.retire(state);
        }
        if overdue {
            // Whoever waits behind a stuck submission waits as long as it does, so all of them learn it.
            let waiting = state.jobs.iter_mut().filter(|job| !job.expired);
            let promises: Vec<Promise> = waiting.flat_map(Job::expire).collect();
            drop(state);
            for promise in promises {
                promise.complete(Err(Error::Timeout { waited: self.deadline }));
            }
        } else if fenced {
            // The fence came before the map callbacks: do not spin.
            drop(state);
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Completes the oldest submission. Copies happen outside the lock; the job leaves the queue only afterwards, so that
    /// whoever waits for an empty queue finds the results there.
    fn retire(&self, mut state: MutexGuard<'_, State>) {
        let reads = state.jobs.front_mut().map(|job| std::mem::take(&mut job.reads)).unwrap_or_default();
        drop(state);
        for read in reads {
            let copied = match read.mapped.get() {
                Some(true) => {
                    let take = || self.seam.take_mapped(&read.staging.buffer, read.bytes);
                    let panicked = || Error::DeviceLost { reason: "wgpu panicked while reading back".to_owned() };
                    catch_unwind(AssertUnwindSafe(take)).unwrap_or_else(|_| Err(panicked()))
                }
                _ => Err(Error::Validation { what: "map_async".to_owned(), message: "the map failed".to_owned() }),
            };
            let outcome = copied.inspect_err(|_| read.staging.discard());
            drop(read.staging);
            if let Some(promise) = read.promise {
                promise.complete(outcome);
            }
        }
        let mut state = lock(&self.state);
        state.jobs.pop_front();
        state.last_progress = Instant::now();
        self.changed.notify_all();
    }

    /// The device is gone: every waiter learns it now, whether or not wgpu ever calls back.
    fn fail(&self, error: &Error) {
        log::error!("the engine failed, and its device is leaked: {error}");
        // wgpu's queue waits for ever when it is dropped busy, and may panic. A leaked device is the lesser evil.
        std::mem::forget(Arc::clone(&self.seam));
        let jobs = {
            let mut state = lock(&self.state);
            state.failed = Some(error.clone());
            std::mem::take(&mut state.jobs)
        };
        self.changed.notify_all();
        for job in jobs {
            job.fail(error);
        }
    }
}
