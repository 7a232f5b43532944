//! Which model, and which tokens: everything that can be wrong with them is found before a device is opened.

use std::path::{Path, PathBuf};

use gristmill::model::{Checkpoint, Config, KvType, ModelFiles, SessionOptions, Tokenizer};
use gristmill::{Error, GpuCompute, GpuModel};

use crate::demo;
use crate::failure::Failure;

/// The seed of `--random` weights: the same model on every machine.
const RANDOM_SEED: u64 = 0;
/// Longest config that `--random` reads, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// Which model.
#[derive(clap::Args)]
pub(crate) struct ModelArgs {
    /// A GPT-2, Llama, Qwen2 or Qwen3: a GGUF file; or a Hugging Face folder with config.json, model.safetensors or its shards, and
    /// tokenizer.json if text is to be read or written [default: the model that is built in]
    #[arg(long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
    /// Random weights, the same on every machine, for timing: `gpt2-small`, or a config.json. It has no tokenizer
    #[arg(long, value_name = "CONFIG", conflicts_with = "model")]
    pub(crate) random: Option<String>,
}

/// How keys and values are kept.
#[derive(clap::Args)]
pub(crate) struct KvArgs {
    /// How keys and values are kept: f16 takes half the memory and rounds them
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = ["f32", "f16"])]
    kv: String,
}

impl KvArgs {
    /// Sessions on a model, with a context or the default one.
    pub(crate) fn options(&self, config: &Config, context: Option<usize>) -> SessionOptions {
        let default = SessionOptions::new(config);
        let kv = if self.kv == "f16" { KvType::F16 } else { KvType::F32 };
        SessionOptions { context: context.unwrap_or(default.context), kv, ..default }
    }
}

/// Token ids given as such.
#[derive(clap::Args)]
#[group(multiple = false)]
pub(crate) struct TokenArgs {
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", allow_hyphen_values = true)]
    pub(crate) tokens: Option<String>,
    /// A file of token ids: a JSON array, or numbers separated by commas or white space
    #[arg(long, value_name = "FILE")]
    pub(crate) tokens_file: Option<PathBuf>,
}

impl TokenArgs {
    pub(crate) fn is_none(&self) -> bool {
        self.tokens.is_none() && self.tokens_file.is_none()
    }
}

/// A model that was looked at and is not on a device yet.
pub(crate) struct Source {
    /// A path, `demo`, or `random CONFIG`.
    pub(crate) name: String,
    pub(crate) config: Config,
    pub(crate) tokenizer: Option<Tokenizer>,
    /// `None`: random weights.
    files: Option<ModelFiles>,
}

impl ModelArgs {
    pub(crate) fn is_demo(&self) -> bool {
        self.model.is_none() && self.random.is_none()
    }

    pub(crate) fn open(&self) -> Result<Source, Failure> {
        if let Some(config) = &self.random {
            let name = format!("random {config}");
            return Ok(Source { name, config: random_config(config)?, tokenizer: None, files: None });
        }
        let (name, files, tokenizer) = match &self.model {
            Some(path) => {
                let files = ModelFiles::open(path)?;
                let tokenizer = match &files {
                    ModelFiles::Gguf(gguf) => Tokenizer::from_gguf(gguf)?,
                    _ => Tokenizer::load(path)?,
                };
                (path.display().to_string(), files, tokenizer)
            }
            None => {
                let files =
                    demo::FILES.ok_or_else(|| usage("this build has no model of its own; give --model PATH"))?;
                let checkpoint = Checkpoint::from_memory(files.config, files.weights)?;
                ("demo".to_owned(), checkpoint.into(), Some(Tokenizer::from_bytes(files.tokenizer)?))
            }
        };
        Ok(Source { name, config: files.config()?, tokenizer, files: Some(files) })
    }
}

fn random_config(name: &str) -> Result<Config, Failure> {
    if name == "gpt2-small" {
        return Ok(Config::gpt2_small());
    }
    let path = Path::new(name);
    if std::fs::metadata(path).is_ok_and(|facts| facts.len() > MAX_CONFIG) {
        let message = format!("is longer than {MAX_CONFIG} bytes");
        return Err(Error::BadFile { path: path.into(), offset: MAX_CONFIG, message }.into());
    }
    Ok(Config::from_json(&read_text(path)?)?)
}

impl Source {
    /// Puts the model on a device, with room for a session.
    pub(crate) fn load(&self, gpu: &GpuCompute, options: &SessionOptions) -> gristmill::Result<GpuModel> {
        match &self.files {
            Some(files) => GpuModel::from_files_with(gpu, files, options),
            None => GpuModel::random_with(gpu, &self.config, RANDOM_SEED, options),
        }
    }

    /// The ids of a text.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, Failure> {
        let missing = || {
            let message = format!("{} has no tokenizer, so it reads no text; give ids with --tokens", self.name);
            Error::Tokenizer(message)
        };
        Ok(self.tokenizer.as_ref().ok_or_else(missing)?.encode(text)?)
    }

    /// Token ids that were given as such; `None` if none were.
    pub(crate) fn ids(&self, args: &TokenArgs) -> Result<Option<Vec<u32>>, Failure> {
        let ids = match (&args.tokens, &args.tokens_file) {
            (Some(list), _) => {
                parse_ids(list).map_err(|word| usage(&format!("--tokens: `{word}` is not a token id")))?
            }
            (None, Some(path)) => parse_ids(&read_text(path)?).map_err(|word| {
                let message = format!("`{word}` is not a token id");
                Error::BadFile { path: path.clone(), offset: 0, message }
            })?,
            (None, None) => return Ok(None),
        };
        ids.into_iter().map(|id| self.check(id)).collect::<Result<_, _>>().map(Some)
    }

    fn check(&self, id: u64) -> Result<u32, Failure> {
        let vocab = self.config.vocab_size;
        let small = u32::try_from(id).ok().filter(|id| (*id as usize) < vocab);
        small.ok_or_else(|| Error::TokenOutOfRange { token: id, vocab }.into())
    }
}

/// Ids from a JSON array or a plain list; the word that is none.
fn parse_ids(text: &str) -> Result<Vec<u64>, String> {
    let text = text.trim();
    let list = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let words = list.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
    words.map(|word| word.parse().map_err(|_| word.chars().take(40).collect())).collect()
}

/// A file's text.
pub(crate) fn read_text(path: &Path) -> gristmill::Result<String> {
    let bytes = std::fs::read(path).map_err(|error| Error::Io { path: path.to_owned(), message: error.to_string() })?;
    String::from_utf8(bytes).map_err(|error| {
        let (offset, message) = (error.utf8_error().valid_up_to() as u64, "is not UTF-8".to_owned());
        Error::BadFile { path: path.to_owned(), offset, message }
    })
}

pub(crate) fn usage(message: &str) -> Failure {
    Failure::Usage(message.to_owned())
}
