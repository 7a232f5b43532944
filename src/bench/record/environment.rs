//! Where something was measured: what cannot be asked again later.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::gpu::GpuCompute;

/// Where, when and by which command something was measured.
///
/// ```
/// use gristmill::bench::Environment;
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let environment = Environment::of(&GpuCompute::new(ComputeBackend::Cpu)?);
/// assert_eq!((&environment.backend[..], environment.adapter.as_ref()), ("cpu", None));
/// assert_eq!(environment.folder(), "cpu"); // of benches/record
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// UTC, RFC 3339.
    pub date: String,
    /// The command line.
    pub command: String,
    /// This crate's version.
    pub version: String,
    /// The commit, with `-dirty` where the tree had changes; from `GRISTMILL_COMMIT`, else from git, if it is there.
    pub commit: Option<String>,
    /// Operating system and processor family.
    pub os: String,
    /// The processor's name, and how many threads there are.
    pub processor: String,
    /// Threads of the CPU backend.
    pub threads: usize,
    /// `gpu` or `cpu`.
    pub backend: String,
    /// The adapter; `null` on the CPU backend.
    pub adapter: Option<Adapter>,
}

/// Which adapter.
///
/// ```
/// use gristmill::bench::{Adapter, Environment};
/// use gristmill::{ComputeBackend, GpuCompute};
///
/// let [name, kind, backend, driver] = ["AMD Radeon RX 6600 (RADV)", "discrete", "vulkan", "radv"].map(str::to_owned);
/// let adapter = Adapter { name, kind, backend, driver, software: false };
/// let environment = Environment { adapter: Some(adapter), ..Environment::of(&GpuCompute::new(ComputeBackend::Cpu)?) };
/// assert_eq!(environment.folder(), "amd-radeon-rx-6600-radv"); // of benches/record
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// As the driver gives it.
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: String,
    /// `vulkan`, `metal`, `dx12` or `gl`.
    pub backend: String,
    /// Driver and version.
    pub driver: String,
    /// It computes on the processor: never a GPU's speed.
    pub software: bool,
}

impl Environment {
    /// This program, now, on this backend.
    pub fn of(gpu: &GpuCompute) -> Environment {
        let adapter = gpu.adapter().map(|facts| Adapter {
            name: facts.name.clone(),
            kind: facts.kind.to_owned(),
            backend: facts.backend.clone(),
            driver: facts.driver.clone(),
            software: facts.software,
        });
        let mut words: Vec<String> = std::env::args().collect();
        if let Some(program) = words.first_mut() {
            // The name of the program, without where it lies on this machine.
            let name = std::path::Path::new(program.as_str()).file_name().map(|n| n.to_string_lossy().into_owned());
            *program = name.unwrap_or_default();
        }
        Environment {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            command: words.join(" "),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: commit(),
            os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            processor: processor(),
            threads: rayon::current_num_threads(),
            backend: if gpu.is_gpu() { "gpu" } else { "cpu" }.to_owned(),
            adapter,
        }
    }

    /// A folder of `benches/record`: the adapter's name in letters, digits and dashes.
    pub fn folder(&self) -> String {
        let Some(adapter) = &self.adapter else { return "cpu".to_owned() };
        let words = adapter.name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let words: Vec<String> = words.map(str::to_lowercase).collect();
        words.join("-")
    }
}

fn commit() -> Option<String> {
    if let Ok(commit) = std::env::var("GRISTMILL_COMMIT") {
        return Some(commit).filter(|commit| !commit.is_empty());
    }
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let is_clean = git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if is_clean { commit } else { commit + "-dirty" })
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name =
        text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{}, {threads} threads", name.unwrap_or("unknown"))
}
