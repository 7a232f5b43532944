//! Which adapter: found, chosen and described. A software adapter is always named as one.
//!
//! Why not leave the choice to wgpu: its preference for power says nothing of drivers, and where a GPU and a software
//! driver are both installed the wrong one is slow without an error. So all are listed, hardware first, and what was taken
//! is said. A name that was asked for and is not there is an error that names those that are, never another adapter; and
//! where there is none the message holds the command that installs one.
//!
//! [`survey`] lists what a plain listing hides, a driver that does not pass the conformance tests or a backend that
//! `WGPU_BACKEND` leaves out, so that "no adapter" on a machine that has one comes with the reason.

use crate::error::{Error, Result};
use crate::queue::seam::CREATING;
use std::sync::PoisonError;

/// The command that gives a Debian-like system a software Vulkan driver.
pub const INSTALL_HINT: &str = "Install a Vulkan driver for your GPU, or a software one: `apt-get install \
     mesa-vulkan-drivers libvulkan1` (Debian, Ubuntu), `dnf install mesa-vulkan-drivers vulkan-loader` (Fedora), \
     `pacman -S vulkan-swrast vulkan-icd-loader` (Arch), `apk add mesa-vulkan-swrast vulkan-loader` (Alpine)";

/// What is known of an adapter.
///
/// ```
/// for adapter in gristmill::survey() {
///     let facts = adapter.facts;
///     println!("{facts}"); // llvmpipe (LLVM 15.0.6, 256 bits) (software, vulkan, llvmpipe Mesa 22.3.6 (LLVM 15.0.6))
///     assert_eq!(facts.software, facts.kind == "software");
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdapterFacts {
    /// Its name, as the driver gives it.
    pub name: String,
    /// `vulkan`, `metal`, `dx12` or `gl`.
    pub backend: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// Driver and its version.
    pub driver: String,
    /// It computes on the CPU.
    pub software: bool,
}

impl AdapterFacts {
    pub(crate) fn new(info: &wgpu::AdapterInfo) -> AdapterFacts {
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        };
        AdapterFacts {
            name: info.name.clone(),
            backend: info.backend.to_str().to_owned(),
            kind,
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            software: info.device_type == wgpu::DeviceType::Cpu,
        }
    }
}

impl std::fmt::Display for AdapterFacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, {}, {})", self.name, self.kind, self.backend, self.driver)
    }
}

/// An instance with the backends this crate is built with; `WGPU_BACKEND`, `WGPU_VALIDATION` and the like apply.
fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env())
}

/// Every adapter, hardware first.
pub(crate) async fn found() -> Vec<wgpu::Adapter> {
    let found = {
        // On native all of it happens in the call, and nothing else may be created meanwhile; there is nothing to await.
        let _alone = CREATING.write().unwrap_or_else(PoisonError::into_inner);
        instance().enumerate_adapters(wgpu::Backends::all())
    };
    hardware_first(found.await)
}

fn hardware_first(mut adapters: Vec<wgpu::Adapter>) -> Vec<wgpu::Adapter> {
    adapters.sort_by_key(|adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    });
    adapters
}

/// The part of an adapter's name that was asked for: `name`, else `GRISTMILL_ADAPTER`, else `WGPU_ADAPTER_NAME`.
pub(crate) fn wanted_name(name: Option<&str>) -> Option<String> {
    let from_env = |key| std::env::var(key).ok().filter(|value| !value.is_empty());
    name.map(str::to_owned).or_else(|| from_env("GRISTMILL_ADAPTER")).or_else(|| from_env("WGPU_ADAPTER_NAME"))
}

/// The first adapter, hardware before software, whose name contains `name`.
///
/// # Errors
/// [`Error::NoAdapter`] with the adapters there are.
pub(crate) fn choose(adapters: Vec<wgpu::Adapter>, name: Option<&str>) -> Result<wgpu::Adapter> {
    let names: Vec<String> = adapters.iter().map(|adapter| adapter.get_info().name).collect();
    let wanted = name.map(str::to_lowercase);
    let matches = |adapter: &wgpu::Adapter| {
        wanted.as_ref().is_none_or(|wanted| adapter.get_info().name.to_lowercase().contains(wanted))
    };
    adapters.into_iter().find(matches).ok_or_else(|| match name {
        Some(name) if !names.is_empty() => Error::NoAdapter {
            reason: format!("no adapter's name contains `{name}`"),
            hint: format!("There are: {}", names.join("; ")),
        },
        _ => Error::NoAdapter { reason: "no adapter was found".to_owned(), hint: INSTALL_HINT.to_owned() },
    })
}

/// What is known of an adapter without opening it.
///
/// ```
/// for adapter in gristmill::survey() {
///     match adapter.hidden {
///         Some(why) => println!("{}: not offered, {why}", adapter.facts),
///         None => println!("{}: {:?}", adapter.facts, adapter.features), // ("subgroups", true), ...
///     }
///     assert!(adapter.limits.iter().any(|(name, bytes)| *name == "binding_bytes" && *bytes > 0));
/// }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Surveyed {
    /// Name, kind, driver.
    pub facts: AdapterFacts,
    /// Why it is not offered for use; `None` where it is.
    pub hidden: Option<&'static str>,
    /// Features that matter here, and whether it has them.
    pub features: Vec<(&'static str, bool)>,
    /// Limits that matter here.
    pub limits: Vec<(&'static str, u64)>,
}

/// Every adapter of this machine, those that are hidden too. Opens none.
pub fn survey() -> Vec<Surveyed> {
    use wgpu::InstanceFlags;
    let offered: Vec<AdapterFacts> =
        pollster::block_on(found()).iter().map(|a| AdapterFacts::new(&a.get_info())).collect();
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    descriptor.flags |= InstanceFlags::ALLOW_UNDERLYING_NONCOMPLIANT_ADAPTER;
    descriptor.backends = wgpu::Backends::all();
    let surveyed = |adapter: &wgpu::Adapter| {
        let facts = AdapterFacts::new(&adapter.get_info());
        let hidden = (!offered.contains(&facts)).then(|| why_hidden(adapter));
        Surveyed { facts, hidden, features: features(adapter), limits: limits(adapter) }
    };
    let all = wgpu::Instance::new(descriptor).enumerate_adapters(wgpu::Backends::all());
    hardware_first(pollster::block_on(all)).iter().map(surveyed).collect()
}

fn why_hidden(adapter: &wgpu::Adapter) -> &'static str {
    let backends = wgpu::Backends::from_env().unwrap_or(wgpu::Backends::all());
    if !backends.contains(adapter.get_info().backend.into()) {
        return "WGPU_BACKEND leaves its backend out";
    }
    "its driver is not a conformant one; WGPU_ALLOW_UNDERLYING_NONCOMPLIANT_ADAPTER=1 offers it all the same"
}

fn features(adapter: &wgpu::Adapter) -> Vec<(&'static str, bool)> {
    use wgpu::Features;
    let known = [
        ("immediates", Features::IMMEDIATES),
        ("subgroups", Features::SUBGROUP),
        ("f16", Features::SHADER_F16),
        ("int64", Features::SHADER_INT64),
        ("timestamps", Features::TIMESTAMP_QUERY),
        ("pipeline_cache", Features::PIPELINE_CACHE),
        ("cooperative_matrix", Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
    ];
    known.map(|(name, feature)| (name, adapter.features().contains(feature))).to_vec()
}

fn limits(adapter: &wgpu::Adapter) -> Vec<(&'static str, u64)> {
    let (limits, info) = (adapter.limits(), adapter.get_info());
    vec![
        ("binding_bytes", limits.max_storage_buffer_binding_size),
        ("buffer_bytes", limits.max_buffer_size),
        ("workgroup_bytes", limits.max_compute_workgroup_storage_size.into()),
        ("workgroup_invocations", limits.max_compute_invocations_per_workgroup.into()),
        ("immediate_bytes", limits.max_immediate_size.into()),
        ("storage_buffers", limits.max_storage_buffers_per_shader_stage.into()),
        ("subgroup_min", info.subgroup_min_size.into()),
        ("subgroup_max", info.subgroup_max_size.into()),
    ]
}
