//! Opening a backend. wgpu's ways to adapters and devices are asynchronous, and only a browser needs them to be; so is the
//! one here, and what blocks is a thin wrapper of it.

use std::sync::{Arc, PoisonError};

use super::{Arithmetic, ComputeBackend, Engine, GpuCompute, Inner, Opened, Options, Units};
use crate::adapter::{self, AdapterFacts};
use crate::error::{Error, Result};
use crate::queue::seam::{CREATING, Seam};

impl GpuCompute {
    /// A hardware adapter, else the CPU backend.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if an adapter was asked for by name and is not there.
    pub fn auto() -> Result<GpuCompute> {
        GpuCompute::new(ComputeBackend::Auto)
    }

    /// Opens a backend.
    ///
    /// # Errors
    /// [`Error::NoAdapter`], with the package to install.
    pub fn new(backend: ComputeBackend) -> Result<GpuCompute> {
        GpuCompute::open(&Options::new(backend))
    }

    /// Opens a backend with options.
    ///
    /// # Errors
    /// As [`GpuCompute::new`].
    pub fn open(options: &Options) -> Result<GpuCompute> {
        pollster::block_on(GpuCompute::open_async(options))
    }

    /// [`GpuCompute::open`] for a task, on any executor.
    ///
    /// # Errors
    /// As [`GpuCompute::new`].
    pub async fn open_async(options: &Options) -> Result<GpuCompute> {
        GpuCompute::open_with(options, |seam| seam).await
    }

    /// [`GpuCompute::open_async`] with the seam wrapped: for tests that inject faults.
    pub(crate) async fn open_with(
        options: &Options,
        wrap: impl FnOnce(Arc<dyn Seam>) -> Arc<dyn Seam>,
    ) -> Result<GpuCompute> {
        let opened =
            |engine, reason| GpuCompute { inner: Arc::new(Inner { engine, reason, arithmetic: options.arithmetic }) };
        let cpu = |reason: &str| opened(None, reason.to_owned());
        if options.backend == ComputeBackend::Cpu {
            return Ok(cpu("asked for"));
        }
        let name = adapter::wanted_name(options.adapter.as_deref());
        let chosen = adapter::choose(adapter::found().await, name.as_deref());
        let adapter = match (options.backend, chosen) {
            // An adapter asked for by name is used or refused, never replaced.
            (ComputeBackend::Auto, Err(_)) if name.is_none() => return Ok(cpu("no adapter was found")),
            (ComputeBackend::Auto, Ok(adapter)) if name.is_none() && is_software(&adapter) => {
                return Ok(cpu("no hardware adapter was found; --backend gpu takes the software one"));
            }
            (_, chosen) => chosen?,
        };
        let engine = Engine::new(Opened::of(&adapter, options.arithmetic).await?, options, wrap)?;
        let reason = match (name, engine.facts.software) {
            (Some(name), _) => format!("an adapter named `{name}` was asked for"),
            (None, true) => "no hardware adapter was found".to_owned(),
            (None, false) => "a hardware adapter was found".to_owned(),
        };
        Ok(opened(Some(engine), reason))
    }
}

fn is_software(adapter: &wgpu::Adapter) -> bool {
    adapter.get_info().device_type == wgpu::DeviceType::Cpu
}

impl Opened {
    async fn of(adapter: &wgpu::Adapter, arithmetic: Arithmetic) -> Result<Opened> {
        let facts = AdapterFacts::new(&adapter.get_info());
        let mut descriptor = GpuCompute::recommended_device_descriptor(adapter);
        let units = match arithmetic {
            Arithmetic::F32 => Err("f16 was not asked for"),
            Arithmetic::F16 => Units::of(adapter),
        };
        if units.is_ok() {
            Units::ask_for(&mut descriptor);
        }
        let opening = {
            // On native the device is created by the call, and no other may be meanwhile; there is nothing to await.
            let _alone = CREATING.write().unwrap_or_else(PoisonError::into_inner);
            adapter.request_device(&descriptor)
        };
        let refused = |e| Error::NoAdapter {
            reason: format!("{facts} refused to open: {e}"),
            hint: adapter::INSTALL_HINT.to_owned(),
        };
        let (device, queue) = opening.await.map_err(refused)?;
        Ok(Opened { device, queue, facts, owned: true, units })
    }
}
