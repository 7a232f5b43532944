//! What can be said of a machine by looking at its files and environment alone.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Where distributions keep libraries. Those of `ld.so.conf` come on top.
const LIBRARY_DIRS: [&str; 9] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/lib64",
    "/usr/lib",
    "/lib",
    "/usr/local/lib",
];
/// Where drivers say that they are there.
const MANIFEST_DIRS: [&str; 3] = ["/usr/share/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/etc/vulkan/icd.d"];
/// Where containers often have the host's driver, and the loader does not look.
const STRAY_MANIFEST_DIRS: [&str; 1] = ["/usr/local/nvidia/share/vulkan/icd.d"];
/// Environment variables that change what is found or chosen.
const PREFIXES: [&str; 4] = ["GRISTMILL_", "WGPU_", "VK_", "MESA_"];

/// Files and environment.
pub(crate) struct System {
    /// Windows' Linux.
    pub(crate) wsl: bool,
    /// The Vulkan loader.
    pub(crate) loader: Option<PathBuf>,
    /// What describes the Vulkan drivers.
    pub(crate) manifests: Vec<PathBuf>,
    /// One that describes a driver all the same, though the loader does not look there.
    pub(crate) stray_manifest: Option<PathBuf>,
    environment: BTreeMap<String, String>,
}

impl System {
    pub(crate) fn look() -> System {
        let named = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
            let key = key.into_string().ok().filter(|key| PREFIXES.iter().any(|prefix| key.starts_with(prefix)))?;
            Some((key, value.to_string_lossy().into_owned()))
        };
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        System {
            wsl: kernel.to_lowercase().contains("microsoft"),
            loader: loader(),
            manifests: manifests(),
            stray_manifest: STRAY_MANIFEST_DIRS.iter().flat_map(|dir| files_in(Path::new(dir), "json")).next(),
            environment: env::vars_os().filter_map(named).collect(),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "os": env::consts::OS,
            "arch": env::consts::ARCH,
            "wsl": self.wsl,
            "vulkan_loader": self.loader,
            "icd_manifests": self.manifests,
            "environment": self.environment,
        })
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wsl = if self.wsl { ", WSL" } else { "" };
        writeln!(f, "gristmill {} on {} {}{wsl}", env!("CARGO_PKG_VERSION"), env::consts::OS, env::consts::ARCH)?;
        match (env::consts::OS, &self.loader) {
            ("linux", Some(path)) => writeln!(f, "vulkan loader: {}", path.display())?,
            ("linux", None) => writeln!(f, "vulkan loader: not found")?,
            ("macos", _) => writeln!(f, "graphics API: Metal, part of the system")?,
            ("windows", _) => writeln!(f, "graphics API: Direct3D 12, part of the system; Vulkan with the driver")?,
            _ => (),
        }
        for path in &self.manifests {
            writeln!(f, "vulkan driver: {}", path.display())?;
        }
        self.environment.iter().try_for_each(|(key, value)| writeln!(f, "environment:   {key}={value}"))
    }
}

/// The loader's file, looked for where the dynamic linker looks.
fn loader() -> Option<PathBuf> {
    let listed = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&listed).filter(|dir| !dir.as_os_str().is_empty()).collect();
    for file in files_in(Path::new("/etc/ld.so.conf.d"), "conf") {
        let text = fs::read_to_string(file).unwrap_or_default();
        dirs.extend(text.lines().map(str::trim).filter(|line| line.starts_with('/')).map(PathBuf::from));
    }
    dirs.extend(LIBRARY_DIRS.map(PathBuf::from));
    dirs.into_iter().map(|dir| dir.join("libvulkan.so.1")).find(|path| path.exists())
}

/// As the loader does: two variables replace the usual places, the newer one first.
fn manifests() -> Vec<PathBuf> {
    let set = |key| env::var_os(key).filter(|value| !value.is_empty());
    if let Some(listed) = set("VK_DRIVER_FILES").or_else(|| set("VK_ICD_FILENAMES")) {
        return env::split_paths(&listed).filter(|path| path.exists()).collect();
    }
    let home = env::home_dir().map(|home| home.join(".local/share/vulkan/icd.d"));
    let dirs = MANIFEST_DIRS.into_iter().map(PathBuf::from).chain(home);
    dirs.flat_map(|dir| files_in(&dir, "json")).collect()
}

/// A folder's files with an extension, in order; none if there is no such folder.
fn files_in(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    files
}
