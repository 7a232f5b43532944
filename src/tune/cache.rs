//! Results that were paid for: a file of JSON lines, appended to after every candidate, so that a sweep that was interrupted
//! goes on where it was, and one more value of a knob costs no more than what is new. The key is everything that a result
//! depends on: text, knobs, shape, type, adapter, driver, and what it was compared with. Times of two sessions are not compared with each other: what
//! counts is each candidate's ratio to the default beside it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::report::{Candidate, Status};
use crate::error::{Error, Result};

/// What a result is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    pub(super) kernel: String,
    pub(super) source_hash: String,
    pub(super) adapter: String,
    pub(super) driver: String,
    pub(super) shape: String,
    pub(super) dtype: String,
    /// The knobs of what it was compared with.
    #[serde(default)]
    pub(super) default: BTreeMap<String, u32>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    key: Key,
    /// By name, so that another knob in the file does not move them.
    values: BTreeMap<String, u32>,
    candidate: Candidate,
}

/// Results of candidates, kept in a file.
///
/// ```
/// use gristmill::tune::TuneCache;
///
/// let path = std::env::temp_dir().join(format!("gristmill-doc-{}.jsonl", std::process::id()));
/// std::fs::write(&path, "no JSON\n")?;
/// let cache = TuneCache::open(&path)?;
/// assert_eq!(cache.len(), 0);
/// let aside = cache.set_aside().expect("what was there").to_owned(); // not lost
/// assert_eq!(std::fs::read_to_string(&aside)?, "no JSON\n");
/// # std::fs::remove_file(&aside)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct TuneCache {
    path: Option<PathBuf>,
    lines: Vec<Line>,
    set_aside: Option<PathBuf>,
}

impl std::fmt::Debug for TuneCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TuneCache").field("path", &self.path).field("lines", &self.lines.len()).finish_non_exhaustive()
    }
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::Io { path: path.to_owned(), message: error.to_string() }
}

impl TuneCache {
    /// Opens a file, or begins one. A last line that was not written to its end is left out; a file that is damaged otherwise is
    /// renamed, and what of it can be read goes into a new one.
    ///
    /// # Errors
    /// [`Error::Io`] if it is there and cannot be read, or not renamed.
    pub fn open(path: &Path) -> Result<TuneCache> {
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            read => read.map_err(io(path))?,
        };
        let text = String::from_utf8_lossy(&bytes);
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let parsed: Vec<Option<Line>> = text[..whole].lines().map(|line| serde_json::from_str(line).ok()).collect();
        let damaged = parsed.iter().any(Option::is_none);
        let mut cache =
            TuneCache { path: Some(path.to_owned()), lines: parsed.into_iter().flatten().collect(), set_aside: None };
        if damaged {
            let aside = (0..).map(|n| path.with_extension(format!("damaged-{n}"))).find(|aside| !aside.exists());
            let aside = aside.unwrap_or_else(|| path.with_extension("damaged"));
            fs::rename(path, &aside).map_err(io(path))?;
            cache.set_aside = Some(aside);
        }
        if damaged || whole < text.len() {
            let lines: Vec<String> = cache.lines.iter().filter_map(|line| serde_json::to_string(line).ok()).collect();
            fs::write(path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).map_err(io(path))?;
        }
        Ok(cache)
    }

    /// Where a damaged file is now.
    pub fn set_aside(&self) -> Option<&Path> {
        self.set_aside.as_deref()
    }

    /// Results in it.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// What became of a candidate, the last time.
    pub(super) fn find(&self, key: &Key, values: &BTreeMap<String, u32>) -> Option<Candidate> {
        let line = self.lines.iter().rev().find(|line| line.key == *key && line.values == *values)?;
        Some(Candidate { cached: true, ..line.candidate.clone() })
    }

    /// Keeps what became of a candidate, unless it was not run.
    pub(super) fn keep(&mut self, key: &Key, values: BTreeMap<String, u32>, candidate: &Candidate) -> Result<()> {
        if candidate.status == Status::NotRun {
            return Ok(());
        }
        let line = Line { key: key.clone(), values, candidate: candidate.clone() };
        if let Some(path) = &self.path {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(io(folder))?;
            }
            let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(io(path))?;
            let json = serde_json::to_string(&line).unwrap_or_default();
            file.write_all(format!("{json}\n").as_bytes()).map_err(io(path))?;
        }
        self.lines.push(line);
        Ok(())
    }
}
