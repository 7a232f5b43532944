//! Which adapter: found, chosen and described. A software adapter is always named as one.

use crate::error::{Error, Result};

/// The command that gives a Debian-like system a software Vulkan driver.
pub const INSTALL_HINT: &str = "Install a Vulkan driver for your GPU, or a software one: `apt-get install \
     mesa-vulkan-drivers libvulkan1` (Debian, Ubuntu), `dnf install mesa-vulkan-drivers vulkan-loader` (Fedora), \
     `pacman -S vulkan-swrast vulkan-icd-loader` (Arch), `apk add mesa-vulkan-swrast vulkan-loader` (Alpine)";

/// What is known of an adapter.
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
pub(crate) fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env())
}

/// Every adapter of an instance, hardware first.
pub(crate) fn all(instance: &wgpu::Instance) -> Vec<wgpu::Adapter> {
    let mut adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
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
