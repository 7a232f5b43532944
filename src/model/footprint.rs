//! How much memory a model takes, before any of it is taken.

use crate::error::{Error, Result};
use crate::gpu::GpuCompute;
use crate::kernel::Format;
use crate::model::batch::{block_rows, logits_rows};
use crate::model::config::Config;
use crate::model::session::SessionOptions;
use crate::model::weights::Source;
use crate::tensor::{DType, device_bytes};

/// Bytes that a model and a batch of sequences on it take.
///
/// ```
/// use gristmill::model::{ModelFiles, SessionOptions};
/// use gristmill::{ComputeBackend, GpuCompute, GpuModel};
///
/// let gpu = GpuCompute::new(ComputeBackend::Cpu)?;
/// let files = ModelFiles::open("models/demo".as_ref())?;
/// let options = SessionOptions { context: 64, ..SessionOptions::new(&files.config()?) };
/// let footprint = GpuModel::footprint(&gpu, &files, 2, &options)?;
/// assert!(footprint.weights > 8_000_000 && footprint.total() > footprint.weights + footprint.kv);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Footprint {
    /// Weights, in the format they are kept in.
    pub weights: u64,
    /// Keys and values of every slot, and the angles of its positions.
    pub kv: u64,
    /// What the widest block of a prompt computes with: an estimate, from shapes.
    pub scratch: u64,
    /// What there is: the rest of the pool's budget; without one, what the system says is free for a backend that computes
    /// in the system's memory. `None`: nobody knows.
    pub budget: Option<u64>,
}

impl Footprint {
    pub(crate) fn of(
        gpu: &GpuCompute,
        config: &Config,
        source: &Source<'_>,
        slots: usize,
        options: &SessionOptions,
    ) -> Result<Footprint> {
        let rows = slots.saturating_mul(options.context);
        let half = tensor_bytes(gpu, &[rows, config.kv_width()], options.kv.dtype())?;
        let limit = gpu.binding_limit();
        if half > limit {
            let what = format!("the keys of a layer for {slots} x {} tokens, in bytes", options.context);
            return Err(Error::TooLarge { what, needed: half, limit });
        }
        let angles = match &config.rope {
            Some(rope) => tensor_bytes(gpu, &[options.context, rope.dim()], DType::F32)?,
            None => 0,
        };
        let kv = half.saturating_mul(2).saturating_mul(config.n_layers as u64).saturating_add(angles);
        Ok(Footprint { weights: weights(gpu, config, source)?, kv, scratch: scratch(gpu, config), budget: budget(gpu) })
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv).saturating_add(self.scratch)
    }

    /// Whether there is enough, as far as anybody knows.
    pub(crate) fn check(&self, options: &SessionOptions) -> Result<()> {
        let &Footprint { weights, kv, scratch, budget } = self;
        match budget.filter(|&budget| self.total() > budget) {
            Some(budget) => Err(Error::DoesNotFit { weights, kv, scratch, context: options.context, budget }),
            None => Ok(()),
        }
    }
}

/// Bytes of a tensor where it would be: rows are padded on a device.
fn tensor_bytes(gpu: &GpuCompute, shape: &[usize], dtype: DType) -> Result<u64> {
    let padded = device_bytes(shape, dtype)?;
    let dense = shape.iter().fold(dtype.bytes() as u64, |bytes, &d| bytes.saturating_mul(d as u64));
    Ok(if gpu.is_gpu() { padded } else { dense })
}

/// As they are loaded: matrices in the format of their parts, vectors and embeddings of positions as f32.
fn weights(gpu: &GpuCompute, config: &Config, source: &Source<'_>) -> Result<u64> {
    let names = source.names(config);
    let mut total = 0u64;
    for (name, shape) in names.tensors(config) {
        let table = name.strip_suffix(".weight").is_some_and(|name| name == names.positions);
        let (shape, format) = match *shape.as_slice() {
            [inputs, outputs] if names.turned && name.starts_with(names.layers) => {
                ([outputs, inputs], source.kept(names, config, &name))
            }
            [rows, columns] if !table => ([rows, columns], source.kept(names, config, &name)),
            [rows, columns] => ([rows, columns], Format::F32),
            // The norm of a head is kept for each of them.
            ref vector => {
                let heads = names
                    .head_norms
                    .iter()
                    .position(|norm| !norm.is_empty() && name.ends_with(&format!("{norm}.weight")));
                let copies = heads.map_or(1, |of| if of == 0 { config.n_heads } else { config.n_kv_heads });
                ([copies, vector.iter().product()], Format::F32)
            }
        };
        // The elements of a quantised row are the words that it takes.
        let words = |columns: usize| if format.is_quantized() { format.row_bytes(columns) / 4 } else { columns };
        let shape = [shape[0], words(shape[1])];
        total = total.saturating_add(tensor_bytes(gpu, &shape, format.into())?);
    }
    Ok(total)
}

/// The hidden states, what each step of a block makes of them, and logits on both sides.
fn scratch(gpu: &GpuCompute, config: &Config) -> u64 {
    let widths =
        [config.hidden_size.saturating_mul(3), config.qkv_width(), config.q_width(), config.up_width(), config.n_inner];
    let block = widths.iter().fold(0u64, |sum, &width| sum.saturating_add(width as u64)).saturating_mul(4);
    let logits = (config.vocab_size as u64).saturating_mul(8);
    let (block_rows, logits_rows) = (block_rows(gpu, config) as u64, logits_rows(gpu, config) as u64);
    let bytes = block.saturating_mul(block_rows).saturating_add(logits.saturating_mul(logits_rows));
    // The classes of the pool waste up to a third.
    if gpu.is_gpu() { bytes.saturating_add(bytes / 3) } else { bytes }
}

/// What is left of the pool's budget, or of the system's memory.
fn budget(gpu: &GpuCompute) -> Option<u64> {
    let of_pool = gpu.pool().and_then(|pool| Some(pool.budget()?.saturating_sub(pool.stats().live_bytes)));
    let in_system = !gpu.is_gpu() || gpu.adapter().is_some_and(|adapter| adapter.software);
    [of_pool, available_memory().filter(|_| in_system)].into_iter().flatten().min()
}

/// Bytes that the system would give without swapping. Only Linux says so in a file.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
