//! Pipelines and bind groups, each created once. A bind group depends on kernel and buffers alone, because parameters
//! travel as immediates (or by dynamic offset): steady state finds everything here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::kernel::{Edit, Kernel, MAX_STORAGE_BUFFERS, ParamsVia, Variant};
use crate::result::lock;
use crate::seam::{CREATING, WgpuSeam};
use crate::tensor::Tensor;

/// Bytes between the parameters of two dispatches in a uniform buffer: WebGPU's default offset alignment.
pub(crate) const PARAMS_STRIDE: u64 = 256;
/// Bind groups kept before all are forgotten: a bound on what a caller with endless shapes can make us hold.
const MAX_BIND_GROUPS: usize = 8192;

/// What a bind group depends on: the kernel, and `(buffer, offset, bytes)` of each binding.
#[derive(PartialEq, Eq, Hash, Clone, Copy)]
struct BindKey {
    kernel: usize,
    parts: [(u64, u64, u64); MAX_STORAGE_BUFFERS],
}

/// Layouts of one kernel.
#[derive(Clone)]
struct Layouts {
    bindings: wgpu::BindGroupLayout,
    pipeline: wgpu::PipelineLayout,
}

#[derive(Default)]
struct Maps {
    layouts: HashMap<usize, Layouts>,
    pipelines: HashMap<(usize, Variant), wgpu::ComputePipeline>,
    bind_groups: HashMap<BindKey, wgpu::BindGroup>,
    uniforms: HashMap<u64, wgpu::BindGroup>,
}

pub(crate) struct Cache {
    seam: Arc<WgpuSeam>,
    params: ParamsVia,
    uniform_layout: Option<wgpu::BindGroupLayout>,
    counters: Arc<Counters>,
    maps: Arc<Mutex<Maps>>,
    /// A change to one file, for tests, and whether a pipeline was made with it.
    edit: OnceLock<(Edit, AtomicBool)>,
    /// Bindings end with their buffers.
    wide: AtomicBool,
}

impl Cache {
    pub(crate) fn new(seam: Arc<WgpuSeam>, params: ParamsVia, counters: Arc<Counters>) -> Result<Cache> {
        let uniform_layout = match params {
            ParamsVia::Immediate => None,
            ParamsVia::Uniform => {
                let entry = wgpu::BindGroupLayoutEntry {
                    binding: 0,
                    visibility: wgpu::ShaderStages::COMPUTE,
                    ty: wgpu::BindingType::Buffer {
                        ty: wgpu::BufferBindingType::Uniform,
                        has_dynamic_offset: true,
                        min_binding_size: None,
                    },
                    count: None,
                };
                let descriptor = wgpu::BindGroupLayoutDescriptor { label: Some("params"), entries: &[entry] };
                Some(seam.scoped("the params layout", 0, |device| device.create_bind_group_layout(&descriptor))?)
            }
        };
        Ok(Cache {
            seam,
            params,
            uniform_layout,
            counters,
            maps: Arc::default(),
            edit: OnceLock::new(),
            wide: AtomicBool::new(false),
        })
    }

    /// The pipeline of a variant, compiled at its first use.
    pub(crate) fn pipeline(&self, kernel: &'static Kernel, variant: &Variant) -> Result<wgpu::ComputePipeline> {
        let mut maps = lock(&self.maps);
        if let Some(pipeline) = maps.pipelines.get(&(kernel.index, *variant)) {
            return Ok(pipeline.clone());
        }
        let layouts = self.layouts(&mut maps, kernel)?;
        let source = self.source(kernel, variant);
        let _alone = lock(&CREATING);
        let pipeline = self.seam.scoped(kernel.name, 0, |device| {
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(kernel.name),
                source: wgpu::ShaderSource::Wgsl(source.into()),
            });
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(kernel.name),
                layout: Some(&layouts.pipeline),
                module: &module,
                entry_point: Some(kernel.name),
                // Every kernel writes its workgroup memory before it reads it; the poisoned tests would show otherwise.
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &[],
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            })
        })?;
        Counters::add(&self.counters.pipelines_created, 1);
        maps.pipelines.insert((kernel.index, *variant), pipeline.clone());
        Ok(pipeline)
    }

    fn source(&self, kernel: &Kernel, variant: &Variant) -> String {
        let Some((edit, applied)) = self.edit.get() else { return kernel.wgsl(variant) };
        let source = kernel.edited(variant, edit);
        applied.fetch_or(source != kernel.wgsl(variant), Ordering::Relaxed);
        source
    }

    /// Lets bindings made from now on end with their buffers and not with their tensors. For tests: a binding's end hides
    /// what a kernel does beyond it, where otherwise there are guards.
    pub(crate) fn set_wide(&self, wide: bool) {
        self.wide.store(wide, Ordering::Relaxed);
    }

    /// Compiles kernels with this change from now on. Called once, before anything is compiled.
    pub(crate) fn set_edit(&self, edit: Edit) {
        let _ = self.edit.set((edit, AtomicBool::new(false)));
    }

    /// Whether the change of [`Cache::set_edit`] is in a pipeline.
    pub(crate) fn edit_is_applied(&self) -> bool {
        self.edit.get().is_some_and(|(_, applied)| applied.load(Ordering::Relaxed))
    }

    fn layouts(&self, maps: &mut Maps, kernel: &'static Kernel) -> Result<Layouts> {
        if let Some(layouts) = maps.layouts.get(&kernel.index) {
            return Ok(layouts.clone());
        }
        let entries: Vec<wgpu::BindGroupLayoutEntry> = (0u32..)
            .zip(kernel.bindings)
            .map(|(binding, slot)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: !slot.write },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layouts = self.seam.scoped(kernel.name, 0, |device| {
            let descriptor = wgpu::BindGroupLayoutDescriptor { label: Some(kernel.name), entries: &entries };
            let bindings = device.create_bind_group_layout(&descriptor);
            let immediates = if self.params == ParamsVia::Immediate { kernel.params_bytes } else { 0 };
            let pipeline = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(kernel.name),
                bind_group_layouts: &[Some(&bindings), self.uniform_layout.as_ref()][..self.groups()],
                immediate_size: immediates,
            });
            Layouts { bindings, pipeline }
        })?;
        maps.layouts.insert(kernel.index, layouts.clone());
        Ok(layouts)
    }

    fn groups(&self) -> usize {
        if self.uniform_layout.is_some() { 2 } else { 1 }
    }

    /// The bind group of a kernel and its tensors, all on one device.
    pub(crate) fn bind_group(&self, kernel: &'static Kernel, tensors: &[&Tensor]) -> Result<wgpu::BindGroup> {
        let mut key = BindKey { kernel: kernel.index, parts: [(0, 0, 0); MAX_STORAGE_BUFFERS] };
        for (part, tensor) in key.parts.iter_mut().zip(tensors) {
            let lease = tensor.lease().ok_or(Error::ForeignBuffer { op: kernel.name })?;
            *part = (lease.id, tensor.offset, tensor.bytes());
        }
        let mut maps = lock(&self.maps);
        if let Some(group) = maps.bind_groups.get(&key) {
            return Ok(group.clone());
        }
        if maps.bind_groups.len() >= MAX_BIND_GROUPS {
            maps.bind_groups.clear();
        }
        let layouts = self.layouts(&mut maps, kernel)?;
        let entries: Vec<wgpu::BindGroupEntry<'_>> = (0u32..)
            .zip(tensors)
            .filter_map(|(binding, tensor)| {
                let buffer = &tensor.lease()?.buffer;
                let wide = self.wide.load(Ordering::Relaxed);
                let size = wgpu::BufferSize::new(tensor.bytes()).filter(|_| !wide);
                let resource =
                    wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: tensor.offset, size });
                Some(wgpu::BindGroupEntry { binding, resource })
            })
            .collect();
        let descriptor =
            wgpu::BindGroupDescriptor { label: Some(kernel.name), layout: &layouts.bindings, entries: &entries };
        let group = self.seam.scoped(kernel.name, 0, |device| device.create_bind_group(&descriptor))?;
        Counters::add(&self.counters.bind_groups_created, 1);
        maps.bind_groups.insert(key, group.clone());
        Ok(group)
    }

    /// The bind group of a buffer of parameters.
    pub(crate) fn uniform(&self, id: u64, buffer: &wgpu::Buffer) -> Result<wgpu::BindGroup> {
        let mut maps = lock(&self.maps);
        if let Some(group) = maps.uniforms.get(&id) {
            return Ok(group.clone());
        }
        let Some(layout) = &self.uniform_layout else {
            return Err(Error::Validation { what: "params".to_owned(), message: "no uniform layout".to_owned() });
        };
        let size = wgpu::BufferSize::new(u64::from(crate::reflect::MAX_PARAMS_BYTES));
        let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: 0, size });
        let entries = [wgpu::BindGroupEntry { binding: 0, resource }];
        let descriptor = wgpu::BindGroupDescriptor { label: Some("params"), layout, entries: &entries };
        let group = self.seam.scoped("params", 0, |device| device.create_bind_group(&descriptor))?;
        Counters::add(&self.counters.bind_groups_created, 1);
        maps.uniforms.insert(id, group.clone());
        Ok(group)
    }

    /// How many bind groups are kept.
    #[cfg(test)]
    pub(crate) fn bind_groups(&self) -> usize {
        lock(&self.maps).bind_groups.len()
    }

    /// Forgets every bind group of the buffers it is called with. For the pool, which the cache does not know.
    pub(crate) fn forgetter(&self) -> impl Fn(&[u64]) + Send + Sync + use<> {
        let maps = Arc::clone(&self.maps);
        move |dead| {
            let dead: HashSet<u64> = dead.iter().copied().collect();
            let mut maps = lock(&maps);
            maps.bind_groups.retain(|key, _| !key.parts.iter().any(|(id, _, _)| dead.contains(id)));
            maps.uniforms.retain(|id, _| !dead.contains(id));
        }
    }
}
