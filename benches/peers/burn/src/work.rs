//! The works: each once for gristmill and once for burn, on the same numbers.

use std::time::{Duration, Instant};

use burn::tensor::activation;
use burn::tensor::module::layer_norm;
use burn::tensor::{Device, DeviceKind, Tensor as Theirs, TensorData};
use gristmill::ops::{self, Gelu};
use gristmill::{Format, GpuCompute, Pass, Tensor, Weight};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Longer than any of it takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// Rows and columns of what is done element by element, or row by row: 4M elements.
const ROWS: usize = 4096;
const COLUMNS: usize = 1024;
const EPSILON: f32 = 1e-5;

/// All works, in the order of the table.
pub const NAMES: [&str; 11] = [
    "matmul m=512,k=512,n=512",
    "matmul m=1024,k=1024,n=1024",
    "matmul m=384,k=1536,n=384",
    "matvec k=768,n=3072, weight n x k",
    "matvec k=768,n=3072, weight k x n in burn",
    "matvec k=3072,n=768, weight n x k",
    "matvec k=3072,n=768, weight k x n in burn",
    "gelu, exact, 4M elements",
    "gelu, tanh form, 4M elements",
    "softmax, 4096 rows of 1024",
    "layer_norm, 4096 rows of 1024",
];

/// Seconds, and what was computed.
type Timed = (f64, Vec<f32>);

/// One side of a work.
pub struct Side(Box<dyn FnMut() -> Result<Timed>>);

impl Side {
    pub fn run(&mut self) -> Result<Timed> {
        (self.0)()
    }
}

/// What both compute.
pub struct Work {
    pub name: String,
    /// How much it is, in `unit` times a second.
    pub amount: f64,
    /// Of a rate.
    pub unit: &'static str,
    /// How far the engines may differ in any element.
    pub tolerance: f64,
    pub ours: Side,
    pub theirs: Side,
}

/// Both engines.
pub struct Engine {
    gpu: GpuCompute,
    device: Device,
}

/// Reads every element, so that none can be left for later. Sixteen sums, for one would wait for itself.
fn sum(values: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    for chunk in values.chunks_exact(16) {
        sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += value);
    }
    std::hint::black_box(sums.iter().sum::<f32>() + values.chunks_exact(16).remainder().iter().sum::<f32>())
}

/// Numbers from -1 to 1 that follow from `seed` (Knuth's generator of 64 bits, its upper bits).
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(|_| draw()).collect()
}

/// x\[rows,columns\] the other way round.
fn transposed(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|j| (0..rows).map(move |i| (i, j))).map(|(i, j)| x[i * columns + j]).collect()
}

impl Engine {
    /// burn on the adapter that this has.
    pub fn beside(gpu: &GpuCompute) -> Result<Engine> {
        let facts = gpu.adapter().ok_or("no adapter")?;
        let kind = match facts.kind {
            "software" => DeviceKind::Cpu,
            "discrete" => DeviceKind::DiscreteGpu(0),
            "integrated" => DeviceKind::IntegratedGpu(0),
            "virtual" => DeviceKind::VirtualGpu(0),
            _ => DeviceKind::DefaultDevice,
        };
        let device = Device::wgpu(kind);
        let theirs = device.identity().ok_or("burn does not say what its device is")?.name;
        if theirs != facts.name {
            return Err(format!("gristmill is on {}, burn on {theirs}", facts.name).into());
        }
        Ok(Engine { gpu: gpu.clone(), device })
    }

    pub fn work(&self, name: &'static str) -> Result<Work> {
        let of = |key: &str| -> Option<usize> {
            let at = name.split([' ', ',']).find_map(|word| word.strip_prefix(key)?.strip_prefix('='))?;
            at.parse().ok()
        };
        match (of("m"), of("k"), of("n")) {
            (Some(m), Some(k), Some(n)) => self.matmul(name, (m, k, n)),
            (None, Some(k), Some(n)) => self.matvec(name, (k, n), name.contains("k x n")),
            _ => self.in_place(name),
        }
    }

    fn theirs<const D: usize>(&self, values: &[f32], shape: [usize; D]) -> Theirs<D> {
        Theirs::from_data(TensorData::new(values.to_vec(), shape), &self.device)
    }

    fn matmul(&self, name: &str, (m, k, n): (usize, usize, usize)) -> Result<Work> {
        let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
        let (our_a, our_b) = (self.gpu.tensor(&a, &[m, k])?, self.gpu.tensor(&b, &[k, n])?);
        let gpu = self.gpu.clone();
        let ours = move || {
            ours(&gpu, |pass| {
                let mut out = pass.tensor(&[m, n])?;
                ops::matmul(pass, &our_a, &our_b, &mut out)?;
                Ok(out)
            })
        };
        let (their_a, their_b) = (self.theirs(&a, [m, k]), self.theirs(&b, [k, n]));
        let theirs = move || theirs(|| their_a.clone().matmul(their_b.clone()));
        let amount = 2.0 * (m * k * n) as f64 / 1e9;
        Ok(work(name, amount, "GFLOP/s", product_tolerance(k), ours, theirs))
    }

    fn matvec(&self, name: &str, (k, n): (usize, usize), natural: bool) -> Result<Work> {
        let (x, w) = (numbers(k, 3), numbers(n * k, 4));
        let weight = Weight::from_f32(&self.gpu, &w, (n, k), Format::F32)?;
        let (gpu, our_x) = (self.gpu.clone(), self.gpu.tensor(&x, &[1, k])?);
        let ours = move || {
            ours(&gpu, |pass| {
                let mut out = pass.tensor(&[1, n])?;
                ops::linear(pass, &our_x, &weight, None, &mut out)?;
                Ok(out)
            })
        };
        let their_x = self.theirs(&x, [1, k]);
        let their_w =
            if natural { self.theirs(&transposed(&w, n, k), [k, n]) } else { self.theirs(&w, [n, k]).transpose() };
        let theirs = move || theirs(|| their_x.clone().matmul(their_w.clone()));
        let amount = 4.0 * (k + n * k + n) as f64 / 1e9;
        Ok(work(name, amount, "GB/s", product_tolerance(k), ours, theirs))
    }

    /// What may be done in place: a fresh operand for each run, on the device before the clock starts.
    fn in_place(&self, name: &str) -> Result<Work> {
        let x: Vec<f32> = numbers(ROWS * COLUMNS, 5).iter().map(|v| 5.0 * v).collect();
        let (scale, shift) = (numbers(COLUMNS, 6), numbers(COLUMNS, 7));
        let word = name.split(',').next().unwrap_or_default().to_owned();
        let form = if name.contains("exact") { Gelu::Exact } else { Gelu::Tanh };

        let (gpu, our_word, values) = (self.gpu.clone(), word.clone(), x.clone());
        let (our_scale, our_shift) = (gpu.tensor(&scale, &[COLUMNS])?, gpu.tensor(&shift, &[COLUMNS])?);
        let ours = move || {
            let mut x = gpu.tensor(&values, &[ROWS, COLUMNS])?;
            drop(gpu.read::<f32>(&gpu.tensor(&[0.0], &[1])?)?); // the upload is over
            ours(&gpu, |pass| {
                match our_word.as_str() {
                    "gelu" => ops::gelu(pass, &mut x, form)?,
                    "softmax" => ops::softmax(pass, &mut x)?,
                    _ => {
                        let mut out = pass.tensor(&[ROWS, COLUMNS])?;
                        ops::layer_norm(pass, (&x, 0), &our_scale, &our_shift, EPSILON, &mut out)?;
                        x = out;
                    }
                }
                Ok(x)
            })
        };

        let (device, their_scale, their_shift) =
            (self.device.clone(), self.theirs(&scale, [COLUMNS]), self.theirs(&shift, [COLUMNS]));
        let theirs = move || {
            let fresh = Theirs::<2>::from_data(TensorData::new(x.clone(), [ROWS, COLUMNS]), &device);
            device.sync().map_err(|error| format!("{error:?}"))?;
            let mut fresh = Some(fresh);
            theirs(|| {
                let x = fresh.take().unwrap_or_else(|| unreachable!("it runs once"));
                match (word.as_str(), form) {
                    ("gelu", Gelu::Exact) => activation::gelu(x),
                    ("gelu", Gelu::Tanh) => activation::gelu_approximate(x),
                    ("softmax", _) => activation::softmax(x, 1),
                    _ => layer_norm(x, their_scale.clone(), Some(their_shift.clone()), f64::from(EPSILON)),
                }
            })
        };
        let amount = 8.0 * (ROWS * COLUMNS) as f64 / 1e9;
        Ok(work(name, amount, "GB/s", 2e-5, ours, theirs))
    }
}

/// Two orders of summation of k products of numbers up to 1: what rounding in f32 makes of them, with room.
fn product_tolerance(k: usize) -> f64 {
    4.0 * f64::from(f32::EPSILON) * k as f64
}

fn work(
    name: &str,
    amount: f64,
    unit: &'static str,
    tolerance: f64,
    ours: impl FnMut() -> Result<Timed> + 'static,
    theirs: impl FnMut() -> Result<Timed> + 'static,
) -> Work {
    let (ours, theirs) = (Side(Box::new(ours)), Side(Box::new(theirs)));
    Work { name: name.to_owned(), amount, unit, tolerance, ours, theirs }
}

/// Records, submits, and reads the result, all of it on the clock. Neither engine copies what it maps; neither keeps the
/// result on the device.
fn ours(gpu: &GpuCompute, record: impl FnOnce(&mut Pass) -> gristmill::Result<Tensor>) -> Result<Timed> {
    let clock = Instant::now();
    let mut pass = gpu.pass();
    let out = record(&mut pass)?;
    let result = pass.view::<f32>(&out)?;
    drop(out);
    pass.submit()?;
    let view = result.wait(PATIENCE)?;
    view.rows().for_each(|row| {
        sum(row);
    });
    Ok((clock.elapsed().as_secs_f64(), view.rows().flatten().copied().collect()))
}

fn theirs(record: impl FnOnce() -> Theirs<2>) -> Result<Timed> {
    let clock = Instant::now();
    let data = record().into_data();
    let values = data.as_slice::<f32>().map_err(|error| format!("{error:?}"))?;
    sum(values);
    Ok((clock.elapsed().as_secs_f64(), values.to_vec()))
}
