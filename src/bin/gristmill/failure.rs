//! How a command ends. The numbers are the exit codes that `--help` lists.

use std::fmt;
use std::io;

use gristmill::Error;

/// What the exit code says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done = 0,
    Failed = 1,
    Usage = 2,
    NoAdapter = 3,
    Wrong = 4,
    Unsupported = 5,
    Interrupted = 130,
}

/// Why a command could not do its work.
pub(crate) enum Failure {
    Library(Error),
    Usage(String),
    /// What was to be printed could not be.
    Output(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Library(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Library(error) => error.fmt(f),
            Failure::Usage(message) => f.write_str(message),
            Failure::Output(error) => write!(f, "writing the result: {error}"),
        }
    }
}

impl Failure {
    /// The reader of our output, `head` for one, has seen enough. That is its right.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    pub(crate) fn outcome(&self) -> Outcome {
        let error = match self {
            _ if self.is_closed_pipe() => return Outcome::Done,
            Failure::Usage(_) => return Outcome::Usage,
            Failure::Output(_) => return Outcome::Failed,
            Failure::Library(error) => error,
        };
        match error {
            Error::EmptyPrompt
            | Error::TokenOutOfRange { .. }
            | Error::ContextFull { .. }
            | Error::BadOption { .. } => Outcome::Usage,
            Error::NoAdapter { .. } => Outcome::NoAdapter,
            Error::NonFinite { what, .. } if what == "logits" => Outcome::Wrong,
            Error::WrongResult { .. } => Outcome::Wrong,
            Error::NonFinite { .. }
            | Error::Io { .. }
            | Error::BadFile { .. }
            | Error::BadConfig { .. }
            | Error::UnsupportedOption { .. }
            | Error::BadTensor { .. }
            | Error::BadRecord { .. }
            | Error::Tokenizer(_)
            | Error::Shader(_)
            | Error::Limit { .. }
            | Error::TooLarge { .. }
            | Error::DoesNotFit { .. } => Outcome::Unsupported,
            _ => Outcome::Failed,
        }
    }
}
