//! The survivors that are known, each with the reason why no case can catch it.

use gristmill::verify::mutants::Mutant;

use crate::failure::Failure;
use crate::source::usage;

/// `tests/mutants/survivors.json`.
const LIST: &str = include_str!("../../../../tests/mutants/survivors.json");

/// Why a mutant may survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reason {
    /// It computes the same as the kernel, wherever it runs.
    Equivalent,
    /// It is wrong, and a software adapter, or any result, does not show it: a race, memory that is read and not used.
    Invisible,
}

/// A change that is known to survive. It is found by its text, so that it may move in its file.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Known {
    file: String,
    before: String,
    after: String,
    /// Which of those that read alike, from 1.
    occurrence: usize,
    pub(crate) reason: Reason,
    /// The argument.
    pub(crate) why: String,
}

impl Known {
    pub(crate) fn is(&self, mutant: &Mutant) -> bool {
        (&self.file, &self.before, &self.after, self.occurrence)
            == (&mutant.path, &mutant.before, &mutant.after, mutant.occurrence)
    }
}

/// The list.
pub(crate) fn known() -> Result<Vec<Known>, Failure> {
    serde_json::from_str(LIST).map_err(|error| usage(&format!("tests/mutants/survivors.json: {error}")))
}
