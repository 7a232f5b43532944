//! `tune --watch`: a file against the kernel whose place it takes, whenever it is saved. An error is printed where it is in
//! the file; the last good one is not forgotten, and the next save tries again.

use std::path::Path;
use std::time::Duration;

use gristmill::bench::Row;
use gristmill::tune::{Duel, Tuned, Tuner};
use gristmill::{Error, OwnKernel};

use crate::failure::{Failure, Outcome};
use crate::output::{note, print};

/// How often the file is looked at.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) fn run(tuner: &mut Tuner<'_>, kernel: &str, row: &Row, path: &Path) -> Result<Outcome, Failure> {
    note(&format!("watching {} in place of {kernel}, at {}; Ctrl-C ends it", path.display(), row.name()));
    let (mut seen, mut good) = (None, None);
    loop {
        // The text and not its date: some editors write it twice.
        let text = std::fs::read_to_string(path).ok();
        if text.is_some() && text != seen {
            match try_out(tuner, kernel, row, path) {
                Ok(duel) => {
                    let line = line(&duel);
                    print(&format!("{line}\n"))?;
                    good = Some(line);
                }
                Err(error) => {
                    let what = match error {
                        Error::WrongResult { .. } => "wrong result: ",
                        // naga's messages begin with that word.
                        Error::Shader(_) => "",
                        _ => "error: ",
                    };
                    let message = error.to_string();
                    let last = good.as_ref().map_or_else(String::new, |line| format!("\nthe last good one: {line}"));
                    print(&format!("{what}{}{last}\n", message.trim_end()))?;
                }
            }
            seen = text;
        }
        std::thread::sleep(PAUSE);
    }
}

fn try_out(tuner: &mut Tuner<'_>, kernel: &str, row: &Row, path: &Path) -> gristmill::Result<Duel> {
    let own = OwnKernel::from_file_as(path, kernel)?;
    tuner.against_built_in(&Tuned::in_place_of(kernel, own)?, row)
}

fn line(duel: &Duel) -> String {
    let (ratio, time, built_in) = (duel.ratio, duel.time_us, duel.built_in_us);
    let speed = format!("{:.2} ({:.2} to {:.2}) x the built-in's speed", ratio.median, ratio.low, ratio.high);
    format!("right; {speed}: {:.1} us against {:.1} us", time.median, built_in.median)
}
