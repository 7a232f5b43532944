//! A caller's own device. Programs that use wgpu already have a device, and features and limits are granted when it is
//! created: so a host asks here what to request, and any device will do, even one with WebGPU's default limits and no
//! features at all. What is missing costs speed or room, never a result.

use std::sync::Arc;

use super::{Arithmetic, Engine, GpuCompute, Inner, Opened, Options};
use crate::adapter::AdapterFacts;
use crate::error::Result;

impl GpuCompute {
    /// An engine on a caller's own device. It is a guest there: it installs no error handler, starts no thread, and does
    /// not poll unless somebody waits for a result. wgpu's handles are cheap to clone, so hand over clones.
    ///
    /// Operations are recorded into the caller's encoder with [`Pass::record`](crate::Pass::record), or submitted on the
    /// caller's queue with [`Pass::submit`](crate::Pass::submit). A lost device is not reported to a guest: waits then end
    /// with [`Error::DeviceLost`](crate::Error::DeviceLost) where wgpu shows it, or at the deadline of [`Options`].
    ///
    /// ```
    /// use gristmill::{GpuCompute, ops, wgpu};
    /// # let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    /// # let Ok(adapter) = pollster::block_on(instance.request_adapter(&Default::default())) else { return Ok(()) };
    ///
    /// let descriptor = GpuCompute::recommended_device_descriptor(&adapter);
    /// let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))?;
    ///
    /// let gpu = GpuCompute::from_existing(device, queue)?;
    /// assert_eq!(gpu.matmul(&[1.0, 2.0, 3.0, 4.0], &[5.0, 6.0, 7.0, 8.0], 2, 2, 2)?, [19.0, 22.0, 43.0, 50.0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// What the device says of the one layout that is created here.
    pub fn from_existing(device: wgpu::Device, queue: wgpu::Queue) -> Result<GpuCompute> {
        GpuCompute::from_existing_with(device, queue, &Options::default())
    }

    /// [`GpuCompute::from_existing`] with options, of which `backend` and `adapter` have been settled by the device.
    ///
    /// # Errors
    /// As [`GpuCompute::from_existing`]; [`Error::OutOfMemory`](crate::Error::OutOfMemory) if a poller thread is asked for
    /// and there is none to be had.
    pub fn from_existing_with(device: wgpu::Device, queue: wgpu::Queue, options: &Options) -> Result<GpuCompute> {
        let facts = AdapterFacts::new(&device.adapter_info());
        let units = match options.arithmetic {
            Arithmetic::F32 => Err("f16 was not asked for"),
            Arithmetic::F16 => Err("a caller's device does not tell what its matrix units are"),
        };
        let engine = Engine::new(Opened { device, queue, facts, owned: false, units }, options, |seam| seam)?;
        let reason = "it is the caller's own".to_owned();
        Ok(GpuCompute { inner: Arc::new(Inner { engine: Some(engine), reason, arithmetic: options.arithmetic }) })
    }

    /// Features without which nothing runs: none.
    pub fn required_features() -> wgpu::Features {
        wgpu::Features::empty()
    }

    /// Limits that every operation fits: WebGPU's own defaults. With less, operations that need more say so with
    /// [`Error::Limit`](crate::Error::Limit) or [`Error::TooLarge`](crate::Error::TooLarge), and the others run.
    pub fn required_limits() -> wgpu::Limits {
        wgpu::Limits::defaults()
    }

    /// Features that are used where a device has them: immediates for parameters, subgroups in reductions, integers of
    /// 64 bits, which move twice as much at a time, timestamps for timing, what a driver has compiled to keep
    /// ([`Options::pipelines`]). Matrix units ([`Arithmetic::F16`]) are not among
    /// them: a device does not tell what they multiply, so a guest does without.
    pub fn useful_features() -> wgpu::Features {
        use wgpu::Features as F;
        let timing = F::TIMESTAMP_QUERY | F::TIMESTAMP_QUERY_INSIDE_PASSES;
        F::IMMEDIATES | F::SUBGROUP | F::SHADER_INT64 | F::PIPELINE_CACHE | timing
    }

    /// What to request of an adapter: the [useful features](GpuCompute::useful_features) that it has, and its own limits,
    /// which let one binding hold more than 128 MiB; of a software adapter also tensors that the host maps itself. A host adds
    /// what it needs itself.
    pub fn recommended_device_descriptor(adapter: &wgpu::Adapter) -> wgpu::DeviceDescriptor<'static> {
        // wgpu warns of mapped tensors on a discrete GPU, where they are slow.
        let software = adapter.get_info().device_type == wgpu::DeviceType::Cpu;
        let mapped = if software { wgpu::Features::MAPPABLE_PRIMARY_BUFFERS } else { wgpu::Features::empty() };
        wgpu::DeviceDescriptor {
            label: Some("gristmill"),
            required_features: adapter.features() & (GpuCompute::useful_features() | mapped),
            required_limits: adapter.limits(),
            ..Default::default()
        }
    }
}
