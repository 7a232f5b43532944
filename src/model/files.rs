//! What a model is stored in: a Hugging Face folder, or one GGUF file.

use std::path::Path;

use super::checkpoint::Checkpoint;
use super::config::Config;
use super::gguf::Gguf;
use crate::error::Result;

/// A stored model, inspected; no weight is read.
///
/// ```
/// use gristmill::model::{Config, ModelFiles};
///
/// let files = ModelFiles::open("models/demo".as_ref())?; // a folder, or a GGUF file
/// assert_eq!(files.config()?.hidden_size, 256);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum ModelFiles {
    /// `config.json` and safetensors.
    Folder(Checkpoint),
    /// One file.
    Gguf(Gguf),
}

impl ModelFiles {
    /// Opens a folder as a Hugging Face folder, and a file as a GGUF file.
    ///
    /// # Errors
    /// As [`Checkpoint::open`] and [`Gguf::open`].
    pub fn open(path: &Path) -> Result<ModelFiles> {
        if path.is_dir() { Checkpoint::open(path).map(Into::into) } else { Gguf::open(path).map(Into::into) }
    }

    /// The model's configuration: what is honoured, or an error that names what is not.
    ///
    /// # Errors
    /// As [`Config::from_json`] and [`Config::from_gguf`].
    pub fn config(&self) -> Result<Config> {
        match self {
            ModelFiles::Folder(checkpoint) => Config::from_json(checkpoint.config_json()),
            ModelFiles::Gguf(gguf) => Config::from_gguf(gguf),
        }
    }
}

impl From<Checkpoint> for ModelFiles {
    fn from(checkpoint: Checkpoint) -> ModelFiles {
        ModelFiles::Folder(checkpoint)
    }
}

impl From<Gguf> for ModelFiles {
    fn from(gguf: Gguf) -> ModelFiles {
        ModelFiles::Gguf(gguf)
    }
}
