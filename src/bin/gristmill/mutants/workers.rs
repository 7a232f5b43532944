//! Mutants run in processes of their own: one that hangs is stopped, one that takes its process down is caught by that,
//! and the next gets a new process.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gristmill::verify::mutants::{self, Examiner, Job, Verdict};

use crate::failure::Failure;
use crate::output::print;

/// What a case may take beyond twenty times what it took with nothing broken.
const PATIENCE: Duration = Duration::from_secs(15);
/// What a large case may take, which was not run before.
const LARGE: Duration = Duration::from_secs(120);

/// A mutant and the cases to run.
pub(crate) struct Task {
    pub(crate) index: usize,
    /// Each with the time it took with nothing broken.
    pub(crate) jobs: Vec<(Job, Option<Duration>)>,
}

/// What became of a mutant.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fate {
    /// A case failed: `(position in the jobs, what it said)`.
    Wrong(usize, String),
    /// A case did not end.
    Hung(usize),
    /// A case ended the process.
    Crashed(usize),
    Survived,
    /// No case compiled the changed text.
    Unseen,
}

/// The other side: reads `INDEX JOB JOB ...` lines, writes `run POSITION` before each case and a verdict after each line.
pub(crate) fn serve(adapter: Option<String>) -> Result<(), Failure> {
    let (all, examiner) = (mutants::all(), Examiner::new(adapter));
    for line in io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split(' ');
        let index: Option<usize> = words.next().and_then(|word| word.parse().ok());
        let jobs: Result<Vec<Job>, String> = words.map(str::parse).collect();
        let (Some(mutant), Ok(jobs)) = (index.and_then(|index| all.get(index)), jobs) else {
            return Err(Failure::Usage(format!("`{line}` is no task")));
        };
        // Who does not read what this writes has stopped it.
        let verdict = examiner.examine(mutant, &jobs, |position| drop(print(&format!("run {position}\n"))))?;
        print(&match verdict {
            Verdict::Caught { job, message } => format!("caught {job} {}\n", message.replace('\n', " ")),
            Verdict::Survived => "survived\n".to_owned(),
            Verdict::Unseen => "unseen\n".to_owned(),
        })?;
    }
    Ok(())
}

/// A worker and what it says.
struct Worker {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Worker {
    fn start(adapter: Option<&str>) -> io::Result<Worker> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["mutants", "--worker"]).args(adapter.map(|name| format!("--adapter={name}")));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let closed = || io::Error::other("a worker without pipes");
        let stdin = child.stdin.take().ok_or_else(closed)?;
        let stdout = child.stdout.take().ok_or_else(closed)?;
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            lines.map(|line| send.send(line)).take_while(Result::is_ok).for_each(drop);
        });
        Ok(Worker { child, stdin, lines })
    }

    /// Runs one task. Anything but a verdict leaves a worker that is of no more use.
    fn run(&mut self, task: &Task) -> Fate {
        let jobs: Vec<String> = task.jobs.iter().map(|(job, _)| job.to_string()).collect();
        let mut at = 0;
        if writeln!(self.stdin, "{} {}", task.index, jobs.join(" ")).is_err() {
            return Fate::Crashed(at);
        }
        loop {
            let usual = task.jobs.get(at).and_then(|(_, time)| *time);
            let line = match self.lines.recv_timeout(usual.map_or(LARGE, |time| PATIENCE + 20 * time)) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => return Fate::Hung(at),
                Err(RecvTimeoutError::Disconnected) => return Fate::Crashed(at),
            };
            let mut words = line.splitn(3, ' ');
            let (verb, position) = (words.next(), words.next().and_then(|word| word.parse().ok()));
            match (verb, position) {
                (Some("run"), Some(position)) => at = position,
                (Some("caught"), Some(position)) => {
                    return Fate::Wrong(position, words.next().unwrap_or_default().to_owned());
                }
                (Some("survived"), _) => return Fate::Survived,
                (Some("unseen"), _) => return Fate::Unseen,
                // What a driver writes to stdout is nothing to us.
                _ => (),
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs all tasks in `count` processes and calls `done` with each index and fate as they come.
pub(crate) fn run(
    tasks: Vec<Task>,
    count: usize,
    adapter: Option<&str>,
    mut done: impl FnMut(usize, Fate),
) -> Result<(), Failure> {
    let left = Mutex::new(tasks.into_iter());
    let (send, fates) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..count {
            let (send, left) = (send.clone(), &left);
            scope.spawn(move || work(left, adapter, &send));
        }
        drop(send);
        for fate in fates {
            let (index, fate) = fate?;
            done(index, fate);
        }
        Ok(())
    })
}

type Fates = Sender<io::Result<(usize, Fate)>>;

fn work(left: &Mutex<std::vec::IntoIter<Task>>, adapter: Option<&str>, fates: &Fates) {
    let mut worker: Option<Worker> = None;
    loop {
        let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(task) = next else { return };
        let fate = match worker.take().map_or_else(|| Worker::start(adapter), Ok) {
            Ok(mut ready) => {
                let fate = ready.run(&task);
                worker = Some(ready).filter(|_| !matches!(fate, Fate::Hung(_) | Fate::Crashed(_)));
                Ok((task.index, fate))
            }
            Err(error) => Err(error),
        };
        if fates.send(fate).is_err() {
            return;
        }
    }
}
