//! Language models on the kernels: checkpoints, weights, one forward, sessions.
//!
//! [`GpuModel`] is immutable weights and can be shared between threads; a [`Session`] is one sequence being read or
//! written: its key-value cache, its tokens, its place; a [`Batch`] is several of them, computed together. Nothing in here
//! names a binding, a knob or a buffer.

mod batch;
mod checkpoint;
mod config;
mod file;
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
pub use config::Config;
pub use generation::{BatchGeneration, Request, StopReason};
pub use gguf::Gguf;
pub use profile::{OpTime, Profile};
pub use session::{GenerateOptions, Generation, Session};
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
}

impl std::fmt::Debug for GpuModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GpuModel").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

impl GpuModel {
    /// Loads a Hugging Face folder: `config.json` and `model.safetensors`, or shards with their index.
    ///
    /// # Errors
    /// Everything that can be wrong with a folder, by file, key or tensor; [`Error::OutOfMemory`], [`Error::TooLarge`].
    pub fn load(gpu: &GpuCompute, dir: &Path) -> Result<GpuModel> {
        GpuModel::from_checkpoint(gpu, &Checkpoint::open(dir)?)
    }

    /// Loads an opened checkpoint.
    ///
    /// # Errors
    /// As [`GpuModel::load`].
    pub fn from_checkpoint(gpu: &GpuCompute, checkpoint: &Checkpoint) -> Result<GpuModel> {
        let config = Config::from_json(checkpoint.config_json())?;
        let source = Source::admit(checkpoint, &config)?;
        GpuModel::build(gpu, config, &source)
    }

    /// A model with random f32 weights that follow from `seed` alone (`tests/oracle` states the rule).
    ///
    /// # Errors
    /// [`Error::BadConfig`] for an impossible config; [`Error::OutOfMemory`], [`Error::TooLarge`].
    pub fn random(gpu: &GpuCompute, config: &Config, seed: u64) -> Result<GpuModel> {
        config.validate()?;
        GpuModel::build(gpu, config.clone(), &Source::Random { seed })
    }

    fn build(gpu: &GpuCompute, config: Config, source: &Source<'_>) -> Result<GpuModel> {
        let weights = Weights::load(gpu, &config, source)?;
        let shared = Arc::new(Model { gpu: gpu.clone(), config, weights });
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

    /// Opens an empty session.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::TooLarge`] for its key-value cache.
    pub fn session(&self) -> Result<Session> {
        Session::new(Arc::clone(&self.shared))
    }

    /// Opens a batch of `slots` empty sequences.
    ///
    /// # Errors
    /// As [`GpuModel::session`].
    pub fn batch(&self, slots: usize) -> Result<Batch> {
        Batch::new(Arc::clone(&self.shared), slots)
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
