//! `HybridScheduler` against what it could have chosen: both sides of every shape are measured, and the scheduler is asked.
//! The two sides take turns within a round, and a shape has several rounds, far apart in time; the figure of a side is the
//! lowest of its rounds' medians, so that what else the machine does matters less. Prints a table for operands on the host
//! and one for operands that each side has where it wants them. The acceptance is a summed regret of at most 10 %, and no
//! shape worse than the larger of 10 % and 50 us; exit code 1 where it is not met. Uses a software adapter where there is no
//! other one. `cargo bench --bench scheduler -- [--json] [--out RECORDS]`

use std::io::Write;
use std::time::Instant;

use gristmill::bench::{Entry, Environment, Estimate, Record, SchedulerRow, turns};
use gristmill::{ComputeBackend, Decision, Error, GpuCompute, HybridScheduler, Residency, Result, Tensor, ops};
use serde_json::json;

/// Runs of each side in a round, after one that warms up.
const REPETITIONS: usize = 7;
/// Rounds, of which the best median counts.
const ROUNDS: usize = 2;
/// Acceptance: summed regret, and the regret of one shape, as parts of the best time.
const REGRET: f64 = 0.10;
/// Acceptance: a regret of one shape that is too small to count, in seconds.
const SMALL: f64 = 50e-6;
/// Multiplications of the largest product that a software adapter is asked for.
const SOFTWARE: usize = 1 << 27;

/// m, k, n.
type Shape = (usize, usize, usize);

/// Decoding, small, medium, skinny, square; odd sizes too. A software adapter leaves out the largest.
const SHAPES: [Shape; 51] = [
    (1, 64, 64),
    (1, 128, 512),
    (1, 768, 768),
    (1, 768, 2304),
    (1, 768, 3072),
    (1, 3072, 768),
    (1, 1023, 1025),
    (1, 2048, 2048),
    (1, 4096, 1024),
    (1, 1024, 4096),
    (2, 768, 768),
    (4, 768, 3072),
    (5, 511, 513),
    (8, 768, 768),
    (8, 1024, 2048),
    (9, 768, 768),
    (3, 5, 7),
    (8, 8, 8),
    (16, 16, 16),
    (17, 33, 65),
    (32, 32, 32),
    (64, 64, 64),
    (67, 129, 131),
    (96, 96, 96),
    (128, 128, 128),
    (16, 768, 768),
    (32, 768, 2304),
    (64, 768, 768),
    (65, 768, 769),
    (128, 768, 768),
    (100, 300, 500),
    (255, 257, 129),
    (256, 256, 256),
    (384, 384, 384),
    (512, 64, 512),
    (512, 512, 512),
    (513, 511, 515),
    (640, 640, 640),
    (768, 768, 768),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
    (256, 4096, 1024),
    (4096, 64, 4096),
    (1024, 8, 1024),
    (1024, 1, 1024),
    (2048, 64, 64),
    (64, 64, 2048),
    (64, 4096, 64),
    (16, 8192, 16),
    (1024, 1024, 1),
    (4096, 256, 8),
];

/// U[-1, 1] from a seed.
fn uniform(mut seed: u64, count: usize) -> Vec<f32> {
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Both sides of one round.
fn round(mut gpu: impl FnMut() -> Result<()>, mut cpu: impl FnMut() -> Result<()>) -> Result<[Estimate; 2]> {
    let times = turns(REPETITIONS, &mut [&mut gpu, &mut cpu])?;
    let none = || Error::Implausible { what: "a side".to_owned(), message: "no samples".to_owned() };
    let estimate = |samples: &Vec<f64>| Estimate::of(samples).ok_or_else(none);
    Ok([estimate(&times[0])?, estimate(&times[1])?])
}

/// On host slices.
fn host(always: &HybridScheduler, never: &HybridScheduler, (m, k, n): Shape) -> Result<[Estimate; 2]> {
    let (a, b) = (uniform(1, m * k), uniform(2, k * n));
    round(|| always.matmul(&a, &b, m, k, n).map(drop), || never.matmul(&a, &b, m, k, n).map(drop))
}

/// On tensors of the side that computes, where the product stays.
fn resident(gpu: &GpuCompute, cpu: &GpuCompute, (m, k, n): Shape) -> Result<[Estimate; 2]> {
    let (a, b) = (uniform(1, m * k), uniform(2, k * n));
    let tensors = |on: &GpuCompute| -> Result<[Tensor; 3]> {
        Ok([on.tensor(&a, &[m, k])?, on.tensor(&b, &[k, n])?, on.zeros(&[m, n])?])
    };
    let ([x, y, mut out], [of_a, of_b, mut product]) = (tensors(gpu)?, tensors(cpu)?);
    let on_gpu = || {
        let mut pass = gpu.pass();
        ops::matmul(&mut pass, &x, &y, &mut out)?;
        pass.submit()?;
        gpu.wait_idle()
    };
    round(on_gpu, || ops::matmul(&mut cpu.pass(), &of_a, &of_b, &mut product))
}

/// A shape, what its sides take, and what the scheduler says.
struct Row {
    shape: Shape,
    gpu: Estimate,
    cpu: Estimate,
    decision: Decision,
}

impl Row {
    fn best(&self) -> f64 {
        self.gpu.median.min(self.cpu.median)
    }

    fn regret(&self) -> f64 {
        let chosen = if self.decision.is_gpu() { self.gpu } else { self.cpu };
        chosen.median - self.best()
    }

    fn is_met(&self) -> bool {
        self.regret() <= (REGRET * self.best()).max(SMALL)
    }

    /// Predicted seconds over measured ones, GPU and CPU.
    fn predicted(&self) -> [f64; 2] {
        [(self.decision.gpu, self.gpu), (self.decision.cpu, self.cpu)]
            .map(|(cost, measured)| cost.map_or(f64::NAN, |cost| cost.total() / measured.median))
    }
}

/// The table of one residency.
struct Report {
    name: &'static str,
    rows: Vec<Row>,
}

impl Report {
    fn regret(&self) -> f64 {
        let sum = |of: fn(&Row) -> f64| self.rows.iter().map(of).sum::<f64>();
        sum(Row::regret) / sum(Row::best)
    }

    fn worst(&self) -> Option<&Row> {
        let limit = |row: &Row| row.regret() / (REGRET * row.best()).max(SMALL);
        self.rows.iter().max_by(|a, b| limit(a).total_cmp(&limit(b)))
    }

    fn wins(&self) -> [usize; 2] {
        let gpu = self.rows.iter().filter(|row| row.gpu.median < row.cpu.median).count();
        [gpu, self.rows.len() - gpu]
    }

    /// The median factor by which predictions of each side miss, and the worst one.
    fn misses(&self) -> [[f64; 2]; 2] {
        [0, 1].map(|side| {
            let factors = self.rows.iter().map(|row| row.predicted()[side].ln().abs().exp()).collect::<Vec<_>>();
            [median(factors.clone()), factors.into_iter().fold(1.0, f64::max)]
        })
    }

    fn is_met(&self) -> bool {
        self.regret() <= REGRET && self.rows.iter().all(Row::is_met)
    }

    fn print(&self) {
        println!("\n{} operands: microseconds; in brackets what was predicted, over what was measured", self.name);
        println!("{:>16} {:>21} {:>21} {:>6} {:>9} {:>7}", "m,k,n", "GPU", "CPU", "choice", "regret", "");
        for row in &self.rows {
            let ((m, k, n), [gpu, cpu]) = (row.shape, row.predicted());
            let choice = if row.decision.is_gpu() { "GPU" } else { "CPU" };
            let (us, part) = (row.regret() * 1e6, 100.0 * row.regret() / row.best());
            let (shape, of_gpu, of_cpu) = (format!("{m},{k},{n}"), row.gpu.median * 1e6, row.cpu.median * 1e6);
            let mark = if row.is_met() { "" } else { "  ABOVE" };
            println!(
                "{shape:>16} {of_gpu:>12.1} ({gpu:>6.2}) {of_cpu:>12.1} ({cpu:>6.2}) {choice:>6} {us:>9.1} {part:>6.1}%{mark}"
            );
        }
        let [gpu, cpu] = self.wins();
        println!("summed regret {:.2} % (at most {:.0} %)", 100.0 * self.regret(), 100.0 * REGRET);
        if let Some(row) = self.worst() {
            let limit = (REGRET * row.best()).max(SMALL) * 1e6;
            println!("worst shape {:?}: {:.1} us, at most {limit:.1} us", row.shape, row.regret() * 1e6);
        }
        println!("sooner: GPU {gpu} shapes, CPU {cpu} shapes");
        for (side, [median, worst]) in ["GPU", "CPU"].iter().zip(self.misses()) {
            println!("predictions, {side}: a factor of {median:.2} off in the median, {worst:.2} at worst");
        }
        println!("{}", if self.is_met() { "met" } else { "BELOW the acceptance" });
    }

    /// Lines for `benches/record`.
    fn records(&self, environment: &Environment) -> Result<Vec<String>> {
        let record = |row: &Row| {
            let (m, k, n) = row.shape;
            let entry = SchedulerRow {
                shape: format!("m={m},k={k},n={n}"),
                operands: self.name.to_owned(),
                gpu_us: row.gpu.map(|s| 1e6 * s),
                cpu_us: row.cpu.map(|s| 1e6 * s),
                chose: if row.decision.is_gpu() { "gpu" } else { "cpu" }.to_owned(),
                reason: row.decision.to_string(),
            };
            Record::new(environment, Entry::Scheduler(entry)).to_line()
        };
        self.rows.iter().map(record).collect()
    }

    fn json(&self) -> serde_json::Value {
        let row = |row: &Row| {
            let (m, k, n) = row.shape;
            let [gpu, cpu] = row.predicted();
            json!({
                "m": m, "k": k, "n": n, "gpu_seconds": row.gpu.median, "cpu_seconds": row.cpu.median,
                "choice": if row.decision.is_gpu() { "gpu" } else { "cpu" }, "regret_seconds": row.regret(),
                "gpu_predicted_over_measured": gpu, "cpu_predicted_over_measured": cpu, "met": row.is_met(),
            })
        };
        let [gpu_wins, cpu_wins] = self.wins();
        json!({
            "operands": self.name, "regret": self.regret(), "gpu_wins": gpu_wins, "cpu_wins": cpu_wins,
            "met": self.is_met(), "shapes": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// Lowest medians of all rounds, then the scheduler's word.
fn report(
    name: &'static str,
    scheduler: &HybridScheduler,
    residency: Residency,
    shapes: &[Shape],
    mut measure: impl FnMut(Shape) -> Result<[Estimate; 2]>,
) -> Result<Report> {
    let mut best = shapes.iter().map(|&shape| measure(shape)).collect::<Result<Vec<_>>>()?;
    for _ in 1..ROUNDS {
        for (best, &shape) in best.iter_mut().zip(shapes) {
            let lower = |a: Estimate, b: Estimate| if a.median < b.median { a } else { b };
            let measured = measure(shape)?;
            *best = [lower(best[0], measured[0]), lower(best[1], measured[1])];
        }
    }
    let rows = shapes.iter().zip(best).map(|(&shape, [gpu, cpu])| {
        let (m, k, n) = shape;
        Row { shape, gpu, cpu, decision: scheduler.explain_resident(m, k, n, residency) }
    });
    Ok(Report { name, rows: rows.collect() })
}

/// Whether the acceptance is met.
fn run(as_json: bool, records: Option<&str>) -> Result<bool> {
    let gpu = GpuCompute::new(ComputeBackend::Gpu)?;
    let cpu = GpuCompute::new(ComputeBackend::Cpu)?;
    let scheduler = HybridScheduler::with_gpu(gpu.clone())?;
    let measuring = Instant::now();
    let calibration = scheduler.calibration()?.cloned();
    let measuring = measuring.elapsed().as_secs_f64();
    let always = HybridScheduler::with_gpu(gpu.clone())?.threshold(0);
    let never = HybridScheduler::with_gpu(gpu.clone())?.threshold(usize::MAX);
    let software = gpu.adapter().is_some_and(|facts| facts.software);
    let shapes: Vec<Shape> = SHAPES.into_iter().filter(|(m, k, n)| !software || m * k * n <= SOFTWARE).collect();
    let reports = [
        report("host", &scheduler, Residency::HOST, &shapes, |shape| host(&always, &never, shape))?,
        report("resident", &scheduler, Residency::EITHER, &shapes, |shape| resident(&gpu, &cpu, shape))?,
    ];
    let adapter = gpu.adapter().map(ToString::to_string).unwrap_or_default();
    let (threads, crossover) = (rayon::current_num_threads(), scheduler.gpu_threshold());
    if as_json {
        println!(
            "{}",
            json!({
                "adapter": adapter, "software": software, "threads": threads,
                "repetitions": REPETITIONS, "rounds": ROUNDS, "calibration": calibration,
                "calibration_seconds": measuring, "gpu_threshold": (crossover != usize::MAX).then_some(crossover),
                "reports": reports.iter().map(Report::json).collect::<Vec<_>>(),
            })
        );
    } else {
        println!("{adapter} against {threads} CPU threads; calibrated in {measuring:.2} s");
        println!("{REPETITIONS} runs of each side in turns, the lowest median of {ROUNDS} rounds");
        match crossover {
            usize::MAX => println!("predicted crossover of host cubes: none"),
            crossover => println!("predicted crossover of host cubes: m k n = {crossover}"),
        }
        reports.iter().for_each(Report::print);
    }
    if let Some(path) = records {
        let environment = Environment::of(&gpu);
        let lines = reports.iter().map(|report| report.records(&environment)).collect::<Result<Vec<_>>>()?.concat();
        let failed = |error: std::io::Error| Error::Io { path: path.into(), message: error.to_string() };
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        lines.iter().try_for_each(|line| writeln!(file, "{line}")).map_err(failed)?;
    }
    Ok(reports.iter().all(Report::is_met))
}

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let records = arguments.iter().position(|word| word == "--out").and_then(|at| arguments.get(at + 1));
    match run(arguments.iter().any(|word| word == "--json"), records.map(String::as_str)) {
        Ok(met) => std::process::ExitCode::from(u8::from(!met)),
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::from(3)
        }
    }
}
