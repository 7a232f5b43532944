//! What a product costs on either side, from a few measured ones.
//!
//! Peak rates predict badly: a product of few tiles leaves an adapter partly idle, one of few rows is bound by memory, and
//! the CPU's time depends on the cache that an operand fits. All of that is in measured times, so those are kept, at points
//! a factor of four to sixteen apart, and what lies between follows their power law: interpolation in logarithms is exact
//! for any cost that is proportional to a power of a dimension. One fitted formula would be wrong between the points, and
//! no point show it.
//!
//! Transfers and the fixed cost of a call are kept apart from the product, because operands may be there already. A
//! calibration names its adapter, driver and threads, and is refused elsewhere.

use super::decision::{Cost, Place, Residency};
use crate::error::{Error, Result};
use crate::gpu::GpuCompute;
use crate::ops::{self, MATVEC_ROWS};

/// Seconds at the points of a grid, and between them.
///
/// Between two points, times are interpolated in logarithms, so that they follow any power law. Beyond the last point of an
/// axis they grow in proportion; below the first they stay as they are, unless it is the only one.
///
/// ```
/// use gristmill::Table;
///
/// let table = Table { x: vec![1.0], y: vec![1e3, 1e5], seconds: vec![1e-5, 1e-3] };
/// assert!((table.at(1.0, 1e4) / 1e-4 - 1.0).abs() < 1e-9); // between two points, by their power law
/// assert!((table.at(1.0, 1e6) / 1e-2 - 1.0).abs() < 1e-9); // beyond the last, in proportion
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "models", derive(serde::Serialize, serde::Deserialize))]
pub struct Table {
    /// Points of the first axis, growing.
    pub x: Vec<f64>,
    /// Points of the second axis, growing.
    pub y: Vec<f64>,
    /// Seconds, for each x those of all y.
    pub seconds: Vec<f64>,
}

/// The last of `axis` that is not beyond `value`, how far it is to the next in logarithms, and how many times the last of all
/// `value` is.
fn locate(axis: &[f64], value: f64) -> (usize, f64, f64) {
    let lower = axis.partition_point(|&point| point <= value).saturating_sub(1);
    match (axis.get(lower), axis.get(lower + 1)) {
        (Some(&from), Some(&to)) => (lower, ((value.max(from) / from).ln() / (to / from).ln()), 1.0),
        (Some(&last), None) => (lower, 0.0, value / last),
        _ => (0, 0.0, 1.0),
    }
}

impl Table {
    /// `seconds` for one of each, in proportion for any other number.
    pub fn proportional(seconds: f64) -> Table {
        Table { x: vec![1.0], y: vec![1.0], seconds: vec![seconds] }
    }

    /// Seconds at (x, y), both positive.
    pub fn at(&self, x: f64, y: f64) -> f64 {
        let ((i, right, over_x), (j, down, over_y)) = (locate(&self.x, x), locate(&self.y, y));
        let point = |i: usize, j: usize| self.seconds.get(i * self.y.len() + j).map_or(0.0, |seconds| seconds.ln());
        let between = |from: f64, to: f64, part: f64| if part == 0.0 { from } else { from + part * (to - from) };
        let row = |i: usize| between(point(i, j), if down == 0.0 { 0.0 } else { point(i, j + 1) }, down);
        between(row(i), if right == 0.0 { 0.0 } else { row(i + 1) }, right).exp() * over_x * over_y
    }

    /// Whether every axis grows, and every time is positive and finite.
    fn is_valid(&self) -> bool {
        let positive = |values: &[f64]| values.iter().all(|v| v.is_finite() && *v > 0.0);
        let grows = |axis: &[f64]| !axis.is_empty() && positive(axis) && axis.is_sorted_by(|a, b| a < b);
        grows(&self.x)
            && grows(&self.y)
            && positive(&self.seconds)
            && self.x.len().checked_mul(self.y.len()) == Some(self.seconds.len())
    }
}

/// What was measured of one adapter and one CPU, and the model that predicts products from it.
///
/// The GPU takes `fixed` for a call, `upload` and `download` for what lies on the wrong side, and for the product a time that
/// depends on how many elements of it are computed, in whole tiles, and on its depth: few tiles leave an adapter partly idle,
/// however deep they are. Products of up to [`MATVEC_ROWS`] rows have a table of their own. The CPU's time depends on the
/// shorter side of the product and on the size of the operand along its longer side, which decides whether it is read from
/// a cache; to that comes writing the product, where that is dearer, and the memory for it.
///
/// ```
/// use gristmill::{Calibration, Residency};
///
/// // Bytes a second to the device and back, seconds of a call, multiplications a second on the GPU and on the CPU.
/// let calibration = Calibration::from_rates(1e9, 1e9, 1e-4, 1e12, 1e10);
/// let gpu = |s| calibration.gpu_cost(s, s, s, Residency::HOST).total();
/// let cpu = |s| calibration.cpu_cost(s, s, s, Residency::HOST).total();
/// assert!(cpu(16) < gpu(16) && gpu(2048) < cpu(2048));
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "models", derive(serde::Serialize, serde::Deserialize))]
pub struct Calibration {
    /// Name of the adapter.
    pub adapter: String,
    /// Its driver and version.
    pub driver: String,
    /// Threads of the CPU backend.
    pub threads: usize,
    /// Seconds of a call on the GPU, whatever its size.
    pub fixed: f64,
    /// Seconds to the device, by bytes (y).
    pub upload: Table,
    /// Seconds to the host, by bytes (y).
    pub download: Table,
    /// Seconds on the GPU of a product of few rows, by n (x) and k (y).
    pub gpu_few_rows: Table,
    /// Seconds on the GPU, by elements of the product in whole tiles (x) and k (y).
    pub gpu: Table,
    /// Seconds on the CPU, by min(m, n) (x) and k max(m, n) (y).
    pub cpu: Table,
    /// Seconds on the CPU to write a product that is hardly computed, by bytes (y).
    pub cpu_write: Table,
    /// Seconds on the CPU to have memory that was not used before, by bytes (y).
    pub allocate: Table,
}

impl Calibration {
    /// A plain one of constant rates: bytes per second up and down, seconds of a GPU call, multiplications per second on the
    /// GPU and on the CPU. For tests, and for adapters that are known without being there.
    pub fn from_rates(upload: f64, download: f64, fixed: f64, gpu: f64, cpu: f64) -> Calibration {
        // What a plain rate leaves out costs next to nothing.
        let nothing = || Table::proportional(1e-30);
        Calibration {
            adapter: String::new(),
            driver: String::new(),
            threads: rayon::current_num_threads(),
            fixed,
            upload: Table::proportional(1.0 / upload),
            download: Table::proportional(1.0 / download),
            gpu_few_rows: Table::proportional(MATVEC_ROWS as f64 / gpu),
            gpu: Table::proportional(1.0 / gpu),
            cpu: Table::proportional(1.0 / cpu),
            cpu_write: nothing(),
            allocate: nothing(),
        }
    }

    /// Names the adapter of `gpu`, so that [`HybridScheduler::with_calibration`](super::HybridScheduler::with_calibration)
    /// takes it.
    #[must_use]
    pub fn named_after(self, gpu: &GpuCompute) -> Calibration {
        let (adapter, driver) =
            gpu.adapter().map(|facts| (facts.name.clone(), facts.driver.clone())).unwrap_or_default();
        Calibration { adapter, driver, ..self }
    }

    /// What the GPU is predicted to take for C\[m,n\] = A\[m,k\] B\[k,n\].
    pub fn gpu_cost(&self, m: usize, k: usize, n: usize, residency: Residency) -> Cost {
        let pitch = |columns: usize| (columns as f64 / 4.0).ceil() * 4.0;
        let bytes = |rows: usize, columns: usize| 4.0 * rows as f64 * pitch(columns);
        let up = |place, bytes| if place == Place::Host { self.upload.at(1.0, bytes) } else { 0.0 };
        let compute = match m {
            _ if m == 0 || k == 0 || n == 0 => 0.0,
            _ if m <= MATVEC_ROWS => self.gpu_few_rows.at(n as f64, k as f64),
            _ => self.gpu.at(ops::tiled(m, n), k as f64),
        };
        Cost {
            upload: up(residency.a, bytes(m, k)) + up(residency.b, bytes(k, n)),
            fixed: self.fixed,
            compute,
            download: if residency.out == Place::Host { self.download.at(1.0, bytes(m, n)) } else { 0.0 },
        }
    }

    /// What the CPU is predicted to take for C\[m,n\] = A\[m,k\] B\[k,n\].
    pub fn cpu_cost(&self, m: usize, k: usize, n: usize, residency: Residency) -> Cost {
        let bytes = |rows: usize, columns: usize| 4.0 * rows as f64 * columns as f64;
        let down = |place, bytes| if place == Place::Device { self.download.at(1.0, bytes) } else { 0.0 };
        let compute = if m == 0 || k == 0 || n == 0 {
            0.0
        } else {
            let product = self.cpu.at(m.min(n) as f64, k as f64 * m.max(n) as f64);
            product.max(self.cpu_write.at(1.0, bytes(m, n)))
        };
        let memory = if residency.out == Place::Either { 0.0 } else { self.allocate.at(1.0, bytes(m, n)) };
        Cost {
            upload: if residency.out == Place::Device { self.upload.at(1.0, bytes(m, n)) } else { 0.0 },
            fixed: 0.0,
            compute: compute + memory,
            download: down(residency.a, bytes(m, k)) + down(residency.b, bytes(k, n)),
        }
    }

    /// Refuses what was measured elsewhere, and what cannot have been measured.
    ///
    /// # Errors
    /// [`Error::ForeignCalibration`], [`Error::BadOption`].
    pub fn check(&self, gpu: &GpuCompute) -> Result<()> {
        let this = Calibration { threads: rayon::current_num_threads(), ..self.clone().named_after(gpu) };
        let name = |of: &Calibration| format!("`{}` ({}) beside {} CPU threads", of.adapter, of.driver, of.threads);
        if name(&this) != name(self) {
            return Err(Error::ForeignCalibration { measured_on: name(self), this: name(&this) });
        }
        let tables = [
            ("upload", &self.upload),
            ("download", &self.download),
            ("gpu_few_rows", &self.gpu_few_rows),
            ("gpu", &self.gpu),
            ("cpu", &self.cpu),
            ("cpu_write", &self.cpu_write),
            ("allocate", &self.allocate),
        ];
        let bad = tables.iter().find(|(_, table)| !table.is_valid()).map(|(name, _)| *name);
        let bad = bad.or((!self.fixed.is_finite() || self.fixed < 0.0).then_some("fixed"));
        bad.map_or(Ok(()), |name| {
            let message = format!("`{name}` is not made of positive times at growing points");
            Err(Error::BadOption { option: "calibration", message })
        })
    }
}

#[cfg(feature = "models")]
impl Calibration {
    /// Writes it to a file, as JSON.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: &std::path::Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| io(path, &e))?;
        std::fs::write(path, text + "\n").map_err(|e| io(path, &e))
    }

    /// Reads what [`Calibration::save`] wrote, for this adapter.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::BadFile`] if it is not a calibration; as [`Calibration::check`].
    pub fn load(path: &std::path::Path, gpu: &GpuCompute) -> Result<Calibration> {
        let text = std::fs::read_to_string(path).map_err(|e| io(path, &e))?;
        let calibration: Calibration = serde_json::from_str(&text).map_err(|e| {
            let before: usize = text.split_inclusive('\n').take(e.line().saturating_sub(1)).map(str::len).sum();
            let offset = (before + e.column()) as u64;
            Error::BadFile { path: path.into(), offset, message: e.to_string() }
        })?;
        calibration.check(gpu)?;
        Ok(calibration)
    }
}

#[cfg(feature = "models")]
fn io(path: &std::path::Path, error: &dyn std::fmt::Display) -> Error {
    Error::Io { path: path.into(), message: error.to_string() }
}
