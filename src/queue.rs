//! The submission queue: a fixed number of submissions in flight, and results that always arrive.
//!
//! Submission is inline, under one mutex: whoever submits waits for room first (backpressure). On a device of ours a poller
//! thread waits for the oldest submission in slices of [`POLL_SLICE`], takes what was read back, and completes the futures.
//! Nobody else polls there, so nobody else can be caught in wgpu's panic on a lost device. The deadline restarts whenever a
//! submission completes: a long queue is not a hang, a stuck submission is.
//!
//! A caller's device is polled by its owner, and a second thread that polls would run the owner's callbacks where they are
//! not expected. There the callbacks of our submissions only take note and wake; whoever looks at a result, or waits for
//! it, does the rest through a [`Driver`]. A wait polls, because it was asked to wait.

mod driver;
pub(crate) mod seam;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::pool::Lease;
use crate::readback::Fetched;
use crate::result::{Promise, lock, wake};
pub(crate) use driver::Driver;
pub use driver::Poller;
use seam::{Mapped, OnDone, Seam, Ticket};

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
    /// The device has reported the end of it. Maps end after the work they wait for.
    fn is_reported(&self) -> bool {
        self.ticket.is_done() || !self.reads.is_empty() && self.reads.iter().all(|read| read.mapped.get().is_some())
    }

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
    /// Tasks that wait for room.
    waiting: Vec<Waker>,
    stopping: bool,
    last_progress: Instant,
}

struct Shared {
    seam: Arc<dyn Seam>,
    poller: Poller,
    /// Whether the device is ours to leak.
    owned: bool,
    /// Held while finished submissions are taken out, which any waiting thread may do where none of ours polls.
    settling: Mutex<()>,
    /// Held while submitting, so that submissions enter `jobs` in the order the device sees them.
    submitting: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
    depth: usize,
    deadline: Duration,
}

/// See the module's text. Dropping it drains what is in flight on a device of ours, for at most ten seconds.
pub(crate) struct SubmissionQueue {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// How a queue works.
pub(crate) struct Settings {
    /// Submissions in flight before submitting blocks.
    pub(crate) depth: usize,
    pub(crate) deadline: Duration,
    pub(crate) poller: Poller,
    /// The device is ours.
    pub(crate) owned: bool,
}

impl SubmissionQueue {
    /// A queue on a device.
    pub(crate) fn new(seam: Arc<dyn Seam>, settings: &Settings) -> Result<SubmissionQueue> {
        let &Settings { depth, deadline, poller, owned } = settings;
        let state = State {
            jobs: VecDeque::new(),
            failed: None,
            waiting: Vec::new(),
            stopping: false,
            last_progress: Instant::now(),
        };
        let shared = Arc::new(Shared {
            seam,
            poller,
            owned,
            settling: Mutex::new(()),
            submitting: Mutex::new(()),
            state: Mutex::new(state),
            changed: Condvar::new(),
            depth: depth.max(1),
            deadline,
        });
        let run = |shared: Arc<Shared>| {
            let thread = std::thread::Builder::new().name("gristmill-poller".to_owned());
            let failed = |e| Error::OutOfMemory { bytes: 0, context: format!("the poller thread: {e}") };
            thread.spawn(move || shared.run()).map_err(failed)
        };
        let thread = (poller == Poller::Thread).then(|| run(Arc::clone(&shared))).transpose()?;
        Ok(SubmissionQueue { shared, thread })
    }

    /// What completes the results of this queue, unless a thread does.
    pub(crate) fn driver(&self) -> Option<Driver> {
        (self.shared.poller == Poller::Caller).then(|| Driver(Arc::clone(&self.shared)))
    }

    /// Waits for room, lets `prepare` write to buffers, records and submits. Waits that an error makes pointless end with
    /// that error; so do the promises of `reads`.
    pub(crate) fn push(
        &self,
        reads: Vec<Read>,
        prepare: impl FnOnce(&dyn Seam) -> Result<()>,
        record: &mut dyn FnMut(&wgpu::Device) -> wgpu::CommandBuffer,
    ) -> Result<()> {
        let shared = &self.shared;
        let turn = lock(&shared.submitting);
        let submitted = shared.wait_for_room().and_then(|()| {
            prepare(shared.seam.as_ref())?;
            shared.seam.submit(record, shared.on_done())
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
        drop((state, turn));
        if shared.poller == Poller::Caller {
            // What was reported before the queue knew of it woke nobody.
            while shared.settle(Job::is_reported) {}
        }
        Ok(())
    }

    /// Whether a submission would find room now; if not, the task is woken when there may be some.
    ///
    /// # Errors
    /// The failure of the engine, and [`Error::Timeout`] where nothing completed for the deadline.
    pub(crate) fn poll_room(&self, waker: &Waker) -> Poll<Result<()>> {
        let shared = &self.shared;
        // Before the look, so that what is reported in between wakes the task.
        {
            let mut state = lock(&shared.state);
            if !state.waiting.iter().any(|other| other.will_wake(waker)) {
                state.waiting.push(waker.clone());
            }
        }
        if shared.poller == Poller::Caller {
            while shared.settle(Job::is_reported) {}
        }
        let mut state = lock(&shared.state);
        let outcome = match shared.obstacle(&state) {
            Err(error) => Poll::Ready(Err(error)),
            Ok(()) if state.jobs.len() < shared.depth => Poll::Ready(Ok(())),
            Ok(()) => Poll::Pending,
        };
        if outcome.is_ready() {
            state.waiting.retain(|other| !other.will_wake(waker));
        }
        outcome
    }

    /// Waits until nothing is in flight.
    pub(crate) fn drain(&self) -> Result<()> {
        self.shared.wait_until(|jobs| jobs == 0)
    }
}

impl Drop for SubmissionQueue {
    fn drop(&mut self) {
        let shared = &self.shared;
        lock(&shared.state).stopping = true;
        shared.changed.notify_all();
        match self.thread.take() {
            // A waker may own the last handle, and wakers run on the poller: it cannot wait for itself, and ends by itself.
            Some(thread) if thread.thread().id() != std::thread::current().id() => drop(thread.join()),
            Some(_) => (),
            // Results hold on to what completes them, and whoever owns the device knows when it is idle. A device of ours
            // has nobody else.
            None if shared.owned => {
                let start = Instant::now();
                while start.elapsed() < DRAIN && shared.step(POLL_SLICE) {}
            }
            None => (),
        }
    }
}

impl Shared {
    /// Why it is pointless to wait for what is in flight.
    fn obstacle(&self, state: &State) -> Result<()> {
        if let Some(error) = &state.failed {
            return Err(error.clone());
        }
        if let Some(reason) = self.seam.lost() {
            return Err(Error::DeviceLost { reason });
        }
        if !state.jobs.is_empty() && state.last_progress.elapsed() > self.deadline {
            return Err(Error::Timeout { waited: self.deadline });
        }
        Ok(())
    }

    fn wait_for_room(&self) -> Result<()> {
        let depth = self.depth;
        self.wait_until(|jobs| jobs < depth)
    }

    /// Blocks until `enough(jobs in flight)`; an error once the engine failed or nothing completed for the deadline.
    fn wait_until(&self, enough: impl Fn(usize) -> bool) -> Result<()> {
        let mut state = lock(&self.state);
        loop {
            if enough(state.jobs.len()) && state.failed.is_none() && self.seam.lost().is_none() {
                return Ok(());
            }
            self.obstacle(&state)?;
            let left = self.deadline.saturating_sub(state.last_progress.elapsed());
            if self.poller == Poller::Caller {
                drop(state);
                self.step(left.min(POLL_SLICE));
                state = lock(&self.state);
                continue;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What the device calls at the end of a submission: where no thread of ours polls, it wakes whoever waits.
    fn on_done(self: &Arc<Self>) -> OnDone {
        let shared = self.to_wake();
        Box::new(move || wake_all(&shared))
    }

    /// Whom callbacks wake: nobody where a thread completes the results.
    fn to_wake(self: &Arc<Self>) -> Weak<Shared> {
        if self.poller == Poller::Caller { Arc::downgrade(self) } else { Weak::new() }
    }

    fn map(self: &Arc<Self>, read: Read) -> Mapping {
        let mapped = Arc::new(OnceLock::new());
        let (done, shared) = (Arc::clone(&mapped), self.to_wake());
        // The callback may run inside any wgpu call: it stores and returns.
        self.seam.map(
            &read.staging.buffer,
            read.bytes,
            Box::new(move |ok| {
                let _ = done.set(ok);
                wake_all(&shared);
            }),
        );
        Mapping { staging: read.staging, bytes: read.bytes, mapped, promise: Some(read.promise) }
    }

    /// The poller.
    fn run(&self) {
        let mut stopped_at = None;
        while let Some(ticket) = self.oldest(&mut stopped_at) {
            if let Err(error) = self.advance(&ticket, POLL_SLICE) {
                return self.fail(&error);
            }
        }
        if !lock(&self.state).jobs.is_empty() {
            self.fail(&Error::Timeout { waited: DRAIN });
        }
    }

    /// The poller's work done once by whoever waits. `false` where nothing is in flight.
    fn step(&self, slice: Duration) -> bool {
        let Some(ticket) = lock(&self.state).jobs.front().map(|job| job.ticket.clone()) else { return false };
        if let Err(error) = self.advance(&ticket, slice) {
            self.fail(&error);
        }
        true
    }

    /// Polls for a submission and takes note of what came of it.
    fn advance(&self, ticket: &Ticket, slice: Duration) -> Result<()> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.seam.poll(ticket, slice)));
        if let Some(reason) = self.seam.lost() {
            return Err(Error::DeviceLost { reason });
        }
        let done = polled.map_err(|_| Error::DeviceLost { reason: "wgpu panicked while polling".to_owned() })??;
        let settle = || self.settle(|job| done && job.ticket.is(ticket));
        catch_unwind(AssertUnwindSafe(settle))
            .map_err(|_| Error::DeviceLost { reason: "the poller panicked".to_owned() })?;
        Ok(())
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

    /// Takes note of whether the oldest submission is done. `true` where it was and is taken out of the queue.
    fn settle(&self, is_done: impl Fn(&Job) -> bool) -> bool {
        let (retired, wakers) = self.settle_oldest(is_done);
        // Outside the lock: a task that is polled where it is woken settles too.
        wakers.into_iter().for_each(wake);
        retired
    }

    fn settle_oldest(&self, is_done: impl Fn(&Job) -> bool) -> (bool, Vec<Option<Waker>>) {
        let _alone = lock(&self.settling);
        let mut state = lock(&self.state);
        let overdue = state.last_progress.elapsed() > self.deadline;
        let Some(job) = state.jobs.front_mut() else { return (false, Vec::new()) };
        job.fenced |= is_done(job);
        let fenced = job.fenced;
        // After the deadline the fence alone will do: a map that never calls back must not hold up what comes after it.
        if fenced && (job.expired || job.reads.iter().all(|read| read.mapped.get().is_some())) {
            return (true, self.retire(state));
        }
        if overdue {
            // Whoever waits behind a stuck submission waits as long as it does, so all of them learn it.
            let stuck = state.jobs.iter_mut().filter(|job| !job.expired);
            let promises: Vec<Promise> = stuck.flat_map(Job::expire).collect();
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            let late = |promise: Promise| promise.fulfil(Err(Error::Timeout { waited: self.deadline }));
            return (false, promises.into_iter().map(late).chain(waiting.into_iter().map(Some)).collect());
        }
        if fenced && self.poller == Poller::Thread {
            // The fence came before the map callbacks: do not spin.
            drop(state);
            std::thread::sleep(Duration::from_micros(200));
        }
        (false, Vec::new())
    }

    /// Completes the oldest submission, and returns whom to wake. Buffers are taken outside the lock; the job leaves the queue
    /// only afterwards, so that whoever waits for an empty queue finds the results there.
    fn retire(&self, mut state: MutexGuard<'_, State>) -> Vec<Option<Waker>> {
        let reads = state.jobs.front_mut().map(|job| std::mem::take(&mut job.reads)).unwrap_or_default();
        drop(state);
        let mut wakers = Vec::new();
        for read in reads {
            let taken = match read.mapped.get() {
                Some(true) => {
                    let take = || Mapped::take(self.seam.as_ref(), Arc::clone(&read.staging), read.bytes);
                    let panicked = || Error::DeviceLost { reason: "wgpu panicked while reading back".to_owned() };
                    catch_unwind(AssertUnwindSafe(take)).unwrap_or_else(|_| Err(panicked()))
                }
                _ => Err(Error::Validation { what: "map_async".to_owned(), message: "the map failed".to_owned() }),
            };
            let outcome = taken.map(Fetched::Mapped).inspect_err(|_| read.staging.discard());
            drop(read.staging);
            wakers.extend(read.promise.map(|promise| promise.fulfil(outcome)));
        }
        let mut state = lock(&self.state);
        state.jobs.pop_front();
        state.last_progress = Instant::now();
        wakers.extend(std::mem::take(&mut state.waiting).into_iter().map(Some));
        self.changed.notify_all();
        wakers
    }

    /// The device is gone: every waiter learns it now, whether or not wgpu ever calls back.
    fn fail(&self, error: &Error) {
        log::error!("the engine failed: {error}");
        if self.owned {
            // wgpu's queue waits for ever when it is dropped busy, and may panic. A leaked device is the lesser evil.
            std::mem::forget(Arc::clone(&self.seam));
        }
        let (jobs, waiting) = {
            let mut state = lock(&self.state);
            state.failed = Some(error.clone());
            (std::mem::take(&mut state.jobs), std::mem::take(&mut state.waiting))
        };
        self.changed.notify_all();
        for job in jobs {
            job.fail(error);
        }
        waiting.into_iter().for_each(|waker| wake(Some(waker)));
    }
}

/// Wakes every task that waits for a result of this queue: the one that looks first completes them all.
fn wake_all(shared: &Weak<Shared>) {
    let Some(shared) = shared.upgrade() else { return };
    shared.changed.notify_all();
    let wakers: Vec<Waker> = {
        let mut state = lock(&shared.state);
        let waiting = std::mem::take(&mut state.waiting);
        let reads = state.jobs.iter().flat_map(|job| &job.reads);
        reads.filter_map(|read| read.promise.as_ref()?.waker()).chain(waiting).collect()
    };
    wakers.into_iter().for_each(|waker| wake(Some(waker)));
}
