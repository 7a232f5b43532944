//! Language models on the kernels: checkpoints, weights, one forward, sessions.
//!
//! [`GpuModel`] is immutable weights and can be shared between threads; a [`Session`] is one sequence being read or
//! written: its key-value cache, its tokens, its place; a [`Batch`] is several of them, computed together. Nothing in here
//! names a binding, a knob or a buffer.

mod batch;
mod checkpoint;
mod config;
mod families;
mod file;
mod files;
mod footprint;
mod generation;
pub mod gguf;
mod profile;
mod random;
mod session;
mod tokenizer;
mod transformer;
mod weights;

use std::path::Path;
use std::sync::{Arc, Mutex};

pub use crate::ops::Activation;
pub use crate::ops::Sampler;
pub use batch::Batch;
pub use checkpoint::{Checkpoint, StoredType, TensorInfo, to_f32};
pub use config::{Config, Family, Rotary};
pub use files::ModelFiles;
pub use footprint::Footprint;
pub use generation::{BatchGeneration, Request, StopReason};
pub use gguf::Gguf;
pub use profile::{OpTime, Profile};
pub use session::{Dispatches, GenerateOptions, Generation, KvType, Session, SessionOptions};
pub use tokenizer::{TextStream, Tokenizer};

use crate::error::{Error, Result};
use crate::gpu::GpuCompute;
use crate::result::lock;
use weights::{Source, Weights};

/// A language model: weights on a device, uploaded once, never changed. Cloning makes another handle on the same model.
///
/// [`forward_gpu`](Self::forward_gpu), [`forward_single_token`](Self::forward_single_token) and
/// [`generate_gpu`](Self::generate_gpu) share one implicit session; for streaming, open a [`session`](Self::session), for
/// several sequences at once a [`batch`](Self::batch).
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute, GpuModel};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let model = GpuModel::load(&gpu, "models/demo".as_ref())?; // config.json and model.safetensors
/// let tokens = model.generate_gpu(&[33, 676, 297], 3)?; // "A reference is"
/// assert_eq!(tokens, [33, 676, 297, 258, 676, 281]); // as PyTorch writes on: models/demo/expected.json
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Clone)]
pub struct GpuModel {
    shared: Arc<Model>,
    implicit: Arc<Mutex<Option<Session>>>,
}

/// What sessions share.
pub(crate) struct Model {
    gpu: GpuCompute,
    config: Config,
    weights: Weights,
    /// What a session is that does not ask for anything else.
    options: SessionOptions,
}

impl std::fmt::Debug for GpuModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GpuModel").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl GpuModel {
    /// Loads a Hugging Face folder (`config.json` and `model.safetensors`, or shards with their index), or a GGUF file.
    ///
    /// # Errors
    /// Everything that can be wrong with the files, by file, key or tensor; [`Error::DoesNotFit`] and [`Error::TooLarge`] before
    /// anything is allocated, where it is known that there is too little; [`Error::OutOfMemory`].
    pub fn load(gpu: &GpuCompute, path: &Path) -> Result<GpuModel> {
        GpuModel::from_files(gpu, &ModelFiles::open(path)?)
    }

    /// Loads opened files.
    ///
    /// # Errors
    /// As [`GpuModel::load`].
    pub fn from_files(gpu: &GpuCompute, files: &ModelFiles) -> Result<GpuModel> {
        let (config, source) = admit(files)?;
        let options = SessionOptions::new(&config);
        GpuModel::build(gpu, config, &source, options)
    }

    /// Loads opened files, if there is memory for the model and one session of `options`, which are then those of every
    /// session that does not ask for others.
    ///
    /// # Errors
    /// As [`GpuModel::load`]; [`Error::BadOption`] for options that the model cannot have.
    pub fn from_files_with(gpu: &GpuCompute, files: &ModelFiles, options: &SessionOptions) -> Result<GpuModel> {
        let (config, source) = admit(files)?;
        GpuModel::build(gpu, config, &source, *options)
    }

    /// The bytes that a stored model takes with a batch of `slots`, from its header alone: nothing is loaded.
    ///
    /// # Errors
    /// As [`GpuModel::from_files_with`], but for [`Error::DoesNotFit`] and [`Error::OutOfMemory`].
    pub fn footprint(
        gpu: &GpuCompute,
        files: &ModelFiles,
        slots: usize,
        options: &SessionOptions,
    ) -> Result<Footprint> {
        let (config, source) = admit(files)?;
        options.validate(&config)?;
        Footprint::of(gpu, &config, &source, slots, options)
    }

    /// A model with random f32 weights that follow from `seed` alone (`tests/oracle` states the rule).
    ///
    /// # Errors
    /// [`Error::BadConfig`] for an impossible config; [`Error::DoesNotFit`], [`Error::OutOfMemory`], [`Error::TooLarge`].
    pub fn random(gpu: &GpuCompute, config: &Config, seed: u64) -> Result<GpuModel> {
        GpuModel::random_with(gpu, config, seed, &SessionOptions::new(config))
    }

    /// [`GpuModel::random`] with session options, as [`GpuModel::from_files_with`].
    ///
    /// # Errors
    /// As [`GpuModel::random`]; [`Error::BadOption`].
    pub fn random_with(gpu: &GpuCompute, config: &Config, seed: u64, options: &SessionOptions) -> Result<GpuModel> {
        config.validate()?;
        GpuModel::build(gpu, config.clone(), &Source::Random { seed }, *options)
    }

    fn build(gpu: &GpuCompute, config: Config, source: &Source<'_>, options: SessionOptions) -> Result<GpuModel> {
        options.validate(&config)?;
        Footprint::of(gpu, &config, source, 1, &options)?.check(&options)?;
        let weights = Weights::load(gpu, &config, source)?;
        let shared = Arc::new(Model { gpu: gpu.clone(), config, weights, options });
        Ok(GpuModel { shared, implicit: Arc::default() })
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Where it runs.
    pub fn gpu(&self) -> &GpuCompute {
        &self.shared.gpu
    }

    /// Bytes of weights on the device.
    pub fn weight_bytes(&self) -> u64 {
        self.shared.weights.bytes()
    }

    /// What a session is that does not ask for anything else.
    pub fn session_options(&self) -> SessionOptions {
        self.shared.options
    }

    /// Opens an empty session.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::TooLarge`] for its key-value cache.
    pub fn session(&self) -> Result<Session> {
        self.session_with(&self.shared.options)
    }

    /// Opens an empty session with another context, or another type of keys and values.
    ///
    /// # Errors
    /// As [`GpuModel::session`]; [`Error::BadOption`] for options that the model cannot have.
    pub fn session_with(&self, options: &SessionOptions) -> Result<Session> {
        Session::new(Arc::clone(&self.shared), options)
    }

    /// Opens a batch of `slots` empty sequences.
    ///
    /// # Errors
    /// As [`GpuModel::session`].
    pub fn batch(&self, slots: usize) -> Result<Batch> {
        self.batch_with(slots, &self.shared.options)
    }

    /// Opens a batch of `slots` empty sequences with another context, or another type of keys and values.
    ///
    /// # Errors
    /// As [`GpuModel::session_with`].
    pub fn batch_with(&self, slots: usize, options: &SessionOptions) -> Result<Batch> {
        Batch::new(Arc::clone(&self.shared), slots, options)
    }

    /// Logits `[tokens, vocab]` of a sequence, from its beginning. The implicit session then holds that sequence.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::ContextFull`], [`Error::TokenOutOfRange`], and the device's.
    pub fn forward_gpu(&self, tokens: &[usize]) -> Result<Vec<f32>> {
        let tokens = self.ids(tokens)?;
        self.with_implicit(|session| {
            session.restart(&tokens)?;
            session.logits(&tokens)
        })
    }

    /// Appends one token to the implicit session and returns its logits `[vocab]`.
    ///
    /// # Errors
    /// As [`GpuModel::forward_gpu`].
    pub fn forward_single_token(&self, token: usize) -> Result<Vec<f32>> {
        let token = self.ids(&[token])?;
        self.with_implicit(|session| session.logits(&token))
    }

    /// The prompt and at most `max_tokens` more tokens, greedily; stops after the model's end token. `max_tokens` 0
    /// returns the prompt.
    ///
    /// # Errors
    /// As [`GpuModel::forward_gpu`]; [`Error::NonFinite`].
    pub fn generate_gpu(&self, prompt: &[usize], max_tokens: usize) -> Result<Vec<usize>> {
        let ids = self.ids(prompt)?;
        let new = self.with_implicit(|session| {
            session.restart(&ids)?;
            let options = GenerateOptions { max_tokens, ..session.default_options() };
            session.generate(&ids, options)?.collect::<Result<Vec<u32>>>()
        })?;
        Ok(prompt.iter().copied().chain(new.into_iter().map(|id| id as usize)).collect())
    }

    fn ids(&self, tokens: &[usize]) -> Result<Vec<u32>> {
        let vocab = self.shared.config.vocab_size;
        let out_of_range = |&token: &usize| Error::TokenOutOfRange { token: token as u64, vocab };
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        tokens.iter().map(|token| u32::try_from(*token).map_err(|_| out_of_range(token))).collect()
    }

    fn with_implicit<T>(&self, call: impl FnOnce(&mut Session) -> Result<T>) -> Result<T> {
        let mut implicit = lock(&self.implicit);
        let session = match implicit.as_mut() {
            Some(session) => session,
            None => implicit.insert(self.session()?),
        };
        call(session)
    }
}

/// What stored files are, and that it is all there.
fn admit(files: &ModelFiles) -> Result<(Config, Source<'_>)> {
    let mut config = files.config()?;
    let source = Source::admit(files, &mut config)?;
    Ok((config, source))
}
