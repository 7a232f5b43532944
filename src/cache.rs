//! Pipelines and bind groups, each created once. A pipeline is looked up where it is recorded and made where its pass is
//! handed in, side by side with the others that the pass lacks: compiling is most of the time to a model's first token.
//! A bind group depends on kernel and buffers alone, because parameters
//! travel as immediates (or by dynamic offset): steady state finds everything here.
//!
//! Keys are numbers, of kernels and of buffers, and never names: a lookup happens for every dispatch that is recorded. What
//! has a number and is dropped must be forgotten, because a bind group keeps its buffers alive: the pool says so of its own
//! buffers, and [`Known`] of what is a caller's.

mod module;

use std::collections::{HashMap, HashSet};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::counters::Counters;
use crate::error::{Error, Result};
use crate::kernel::{Edit, Kernel, MAX_STORAGE_BUFFERS, ParamsVia, Variant};
use crate::queue::seam::{CREATING, WgpuSeam};
use crate::result::lock;
use crate::tensor::Tensor;

/// Bytes between the parameters of two dispatches in a uniform buffer: WebGPU's default offset alignment.
pub(crate) const PARAMS_STRIDE: u64 = 256;
/// Bind groups kept before all are forgotten: a bound on what a caller with endless shapes can make us hold.
const MAX_BIND_GROUPS: usize = 8192;

/// What the engine has to know of a kernel, be it one of ours or a caller's.
#[derive(Clone, Copy)]
pub(crate) struct Blueprint<'a> {
    /// Its number: those of callers' kernels are above ours.
    pub(crate) id: usize,
    pub(crate) name: &'a str,
    /// Storage buffers of group 0.
    pub(crate) buffers: usize,
    /// Which of them are written.
    pub(crate) writes: [bool; MAX_STORAGE_BUFFERS],
    pub(crate) params_bytes: u32,
    /// Compiled without the checks that bound its indices.
    pub(crate) unchecked: bool,
}

impl<'a> Blueprint<'a> {
    pub(crate) fn new(
        id: usize,
        name: &'a str,
        writes: impl Iterator<Item = bool>,
        params_bytes: u32,
    ) -> Blueprint<'a> {
        let writes_none = [false; MAX_STORAGE_BUFFERS];
        let mut blueprint = Blueprint { id, name, buffers: 0, writes: writes_none, params_bytes, unchecked: false };
        for (slot, write) in blueprint.writes.iter_mut().zip(writes) {
            *slot = write;
            blueprint.buffers += 1;
        }
        blueprint
    }

    /// The layout of group 0.
    fn entries(&self) -> Vec<wgpu::BindGroupLayoutEntry> {
        let entry = |(binding, &write)| storage_entry(binding, write);
        (0u32..).zip(self.writes.iter().take(self.buffers)).map(entry).collect()
    }
}

fn storage_entry(binding: u32, write: bool) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only: !write },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    }
}

/// The layout of a kernel's group 0, for a pipeline of a caller's own. The parameters are `params_bytes` of immediates, or
/// with [`ParamsVia::Uniform`] a uniform buffer at group 1, binding 0.
///
/// ```
/// use gristmill::{kernels, layout_entries};
///
/// let entries = layout_entries(&kernels::matmul::KERNEL);
/// assert_eq!(entries.len(), kernels::matmul::KERNEL.bindings.len());
/// ```
pub fn layout_entries(kernel: &Kernel) -> Vec<wgpu::BindGroupLayoutEntry> {
    kernel.blueprint().entries()
}

/// The caches that know a caller's buffer or kernel by its number, so that they forget it when it is gone.
#[derive(Default)]
pub(crate) struct Known(Mutex<Vec<Weak<Mutex<Maps>>>>);

impl Known {
    fn note(&self, maps: &Arc<Mutex<Maps>>) {
        let mut caches = lock(&self.0);
        caches.retain(|known| known.strong_count() > 0);
        if !caches.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(maps))) {
            caches.push(Arc::downgrade(maps));
        }
    }

    pub(crate) fn forget_buffer(&self, id: u64) {
        lock(&self.0).drain(..).filter_map(|known| known.upgrade()).for_each(|maps| lock(&maps).forget_buffers(&[id]));
    }

    pub(crate) fn forget_kernel(&self, id: usize) {
        lock(&self.0).drain(..).filter_map(|known| known.upgrade()).for_each(|maps| lock(&maps).forget_kernel(id));
    }
}

/// What a bind group depends on: the kernel, and `(buffer, offset, bytes)` of each binding.
#[derive(PartialEq, Eq, Hash, Clone, Copy)]
struct BindKey {
    kernel: usize,
    parts: [(u64, u64, u64); MAX_STORAGE_BUFFERS],
}

/// A pipeline, or what it will be made of.
pub(crate) struct Pipeline {
    name: String,
    source: String,
    layout: wgpu::PipelineLayout,
    unchecked: bool,
    made: OnceLock<wgpu::ComputePipeline>,
    /// Held by whoever makes it.
    making: Mutex<()>,
}

impl Pipeline {
    /// `None` before [`Cache::make_all`].
    pub(crate) fn get(&self) -> Option<&wgpu::ComputePipeline> {
        self.made.get()
    }
}

impl PartialEq for Pipeline {
    fn eq(&self, other: &Pipeline) -> bool {
        std::ptr::eq(self, other)
    }
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
    pipelines: HashMap<(usize, Variant), Arc<Pipeline>>,
    bind_groups: HashMap<BindKey, wgpu::BindGroup>,
    uniforms: HashMap<u64, wgpu::BindGroup>,
}

impl Maps {
    fn forget_buffers(&mut self, dead: &[u64]) {
        let dead: HashSet<u64> = dead.iter().copied().collect();
        self.bind_groups.retain(|key, _| !key.parts.iter().any(|(id, _, _)| dead.contains(id)));
        self.uniforms.retain(|id, _| !dead.contains(id));
    }

    fn forget_kernel(&mut self, id: usize) {
        self.layouts.remove(&id);
        self.pipelines.retain(|(kernel, _), _| *kernel != id);
        self.bind_groups.retain(|key, _| key.kernel != id);
    }
}

pub(crate) struct Cache {
    seam: Arc<WgpuSeam>,
    params: ParamsVia,
    /// Every kernel of ours is compiled without checks.
    unchecked: bool,
    /// What the driver has compiled before, in this run or an earlier one.
    compiled: Option<wgpu::PipelineCache>,
    uniform_layout: Option<wgpu::BindGroupLayout>,
    limits: wgpu::Limits,
    counters: Arc<Counters>,
    maps: Arc<Mutex<Maps>>,
    /// A change to one file, for tests, and whether a pipeline was made with it.
    edit: OnceLock<(Edit, AtomicBool)>,
    /// Bindings end with their buffers.
    wide: AtomicBool,
}

impl Cache {
    pub(crate) fn new(
        seam: Arc<WgpuSeam>,
        (params, unchecked): (ParamsVia, bool),
        compiled: Option<wgpu::PipelineCache>,
        limits: &wgpu::Limits,
        counters: Arc<Counters>,
    ) -> Result<Cache> {
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
            unchecked,
            compiled,
            uniform_layout,
            limits: limits.clone(),
            counters,
            maps: Arc::default(),
            edit: OnceLock::new(),
            wide: AtomicBool::new(false),
        })
    }

    /// The pipeline of a kernel of ours.
    pub(crate) fn pipeline(&self, kernel: &'static Kernel, variant: &Variant) -> Result<Arc<Pipeline>> {
        let blueprint = kernel.blueprint();
        let blueprint = Blueprint { unchecked: self.unchecked || blueprint.unchecked, ..blueprint };
        self.pipeline_of(&blueprint, variant, || Ok(self.source(kernel, variant)))
    }

    /// The pipeline of any kernel; `source` is its text.
    pub(crate) fn pipeline_of(
        &self,
        kernel: &Blueprint<'_>,
        variant: &Variant,
        source: impl FnOnce() -> Result<String>,
    ) -> Result<Arc<Pipeline>> {
        let mut maps = lock(&self.maps);
        if let Some(pipeline) = maps.pipelines.get(&(kernel.id, *variant)) {
            return Ok(Arc::clone(pipeline));
        }
        let source = source()?;
        let legal = self.check_limits(kernel, &source)?;
        let layout = self.layouts(&mut maps, kernel)?.pipeline;
        let (name, made, making) = (kernel.name.to_owned(), OnceLock::new(), Mutex::default());
        let unchecked = kernel.unchecked;
        let pipeline = Arc::new(Pipeline { name, source, layout, unchecked, made, making });
        if !legal {
            self.make(&pipeline)?;
        }
        maps.pipelines.insert((kernel.id, *variant), Arc::clone(&pipeline));
        Ok(pipeline)
    }

    /// Makes those of the pipelines that are not made yet, several at once.
    ///
    /// # Errors
    /// What the device says of the first that it refuses.
    pub(crate) fn make_all<'a>(&self, pipelines: impl Iterator<Item = &'a Arc<Pipeline>>) -> Result<()> {
        let mut missing: Vec<&Arc<Pipeline>> = Vec::new();
        for pipeline in pipelines.filter(|pipeline| pipeline.made.get().is_none()) {
            if !missing.iter().any(|other| Arc::ptr_eq(other, pipeline)) {
                missing.push(pipeline);
            }
        }
        // Most submissions: how many cores there are is a question to the system.
        if missing.is_empty() {
            return Ok(());
        }
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let next = AtomicUsize::new(0);
        let work = || {
            let mine = std::iter::from_fn(|| missing.get(next.fetch_add(1, Ordering::Relaxed)));
            mine.map(|pipeline| self.make(pipeline)).collect::<Result<Vec<()>>>()
        };
        std::thread::scope(|scope| {
            // The thread that waits does its part; a thread that cannot be had is one less.
            let helpers = cores.min(missing.len()).saturating_sub(1);
            let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
            let helpers: Vec<_> = (0..helpers).filter_map(spawn).collect();
            let mine = work();
            let panicked = |_| Err(Error::DeviceLost { reason: "wgpu panicked while compiling".to_owned() });
            helpers.into_iter().map(|helper| helper.join().unwrap_or_else(panicked)).fold(mine, Result::and).map(drop)
        })
    }

    fn make(&self, pipeline: &Pipeline) -> Result<()> {
        let _turn = lock(&pipeline.making);
        if pipeline.made.get().is_some() {
            return Ok(());
        }
        let _no_device = CREATING.read().unwrap_or_else(PoisonError::into_inner);
        let name = pipeline.name.as_str();
        let made = self.seam.scoped(name, 0, |device| {
            let module = module::module(device, name, &pipeline.source, pipeline.unchecked);
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(name),
                layout: Some(&pipeline.layout),
                module: &module,
                entry_point: Some(name),
                // Every kernel writes its workgroup memory before it reads it; the poisoned tests would show otherwise.
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &[],
                    zero_initialize_workgroup_memory: false,
                },
                cache: self.compiled.as_ref(),
            })
        })?;
        Counters::add(&self.counters.pipelines_created, 1);
        let _ = pipeline.made.set(made);
        Ok(())
    }

    /// Compares what a kernel needs with what the device was granted. wgpu does not check workgroup memory itself, and what
    /// it refuses it refuses in its own words. `false`: the text is not legal, and making it says why.
    ///
    /// # Errors
    /// [`Error::Limit`].
    fn check_limits(&self, kernel: &Blueprint<'_>, source: &str) -> Result<bool> {
        let limits = &self.limits;
        let Ok((size, workgroup_bytes)) = crate::reflect::resources(kernel.name, source) else { return Ok(false) };
        let needs = [
            (
                "max_storage_buffers_per_shader_stage",
                kernel.buffers as u64,
                u64::from(limits.max_storage_buffers_per_shader_stage),
            ),
            (
                "max_compute_workgroup_storage_size",
                u64::from(workgroup_bytes),
                u64::from(limits.max_compute_workgroup_storage_size),
            ),
            (
                "max_compute_invocations_per_workgroup",
                size.iter().map(|&n| u64::from(n)).product(),
                u64::from(limits.max_compute_invocations_per_workgroup),
            ),
            ("max_compute_workgroup_size_x", u64::from(size[0]), u64::from(limits.max_compute_workgroup_size_x)),
        ];
        match needs.into_iter().find(|(_, wanted, granted)| wanted > granted) {
            Some((limit, wanted, granted)) => Err(Error::Limit { op: kernel.name.to_owned(), limit, wanted, granted }),
            None => Ok(true),
        }
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

    fn layouts(&self, maps: &mut Maps, kernel: &Blueprint<'_>) -> Result<Layouts> {
        if let Some(layouts) = maps.layouts.get(&kernel.id) {
            return Ok(layouts.clone());
        }
        let layouts = self.seam.scoped(kernel.name, 0, |device| {
            let descriptor = wgpu::BindGroupLayoutDescriptor { label: Some(kernel.name), entries: &kernel.entries() };
            let bindings = device.create_bind_group_layout(&descriptor);
            let immediates = if self.params == ParamsVia::Immediate { kernel.params_bytes } else { 0 };
            let pipeline = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(kernel.name),
                bind_group_layouts: &[Some(&bindings), self.uniform_layout.as_ref()][..self.groups()],
                immediate_size: immediates,
            });
            Layouts { bindings, pipeline }
        })?;
        maps.layouts.insert(kernel.id, layouts.clone());
        Ok(layouts)
    }

    fn groups(&self) -> usize {
        if self.uniform_layout.is_some() { 2 } else { 1 }
    }

    /// The bind group of a kernel and its tensors, all on one device.
    pub(crate) fn bind_group(&self, kernel: &Blueprint<'_>, tensors: &[&Tensor]) -> Result<wgpu::BindGroup> {
        let mut key = BindKey { kernel: kernel.id, parts: [(0, 0, 0); MAX_STORAGE_BUFFERS] };
        for (part, tensor) in key.parts.iter_mut().zip(tensors) {
            let id = tensor.lease().map_or(0, |lease| lease.id);
            *part = (id, tensor.offset, tensor.bytes());
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
        tensors.iter().filter_map(|tensor| tensor.lease()?.known()).for_each(|known| known.note(&self.maps));
        Ok(group)
    }

    /// The bind group of a pooled buffer of parameters.
    pub(crate) fn uniform(&self, id: u64, buffer: &wgpu::Buffer) -> Result<wgpu::BindGroup> {
        let mut maps = lock(&self.maps);
        if let Some(group) = maps.uniforms.get(&id) {
            return Ok(group.clone());
        }
        let group = self.uniform_once(buffer)?;
        maps.uniforms.insert(id, group.clone());
        Ok(group)
    }

    /// The bind group of a buffer of parameters that is used once.
    pub(crate) fn uniform_once(&self, buffer: &wgpu::Buffer) -> Result<wgpu::BindGroup> {
        let Some(layout) = &self.uniform_layout else {
            return Err(Error::Validation { what: "params".to_owned(), message: "no uniform layout".to_owned() });
        };
        let size = wgpu::BufferSize::new(u64::from(crate::reflect::MAX_PARAMS_BYTES));
        let resource = wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: 0, size });
        let entries = [wgpu::BindGroupEntry { binding: 0, resource }];
        let descriptor = wgpu::BindGroupDescriptor { label: Some("params"), layout, entries: &entries };
        let group = self.seam.scoped("params", 0, |device| device.create_bind_group(&descriptor))?;
        Counters::add(&self.counters.bind_groups_created, 1);
        Ok(group)
    }

    /// Lets a caller's kernel be forgotten here when it is dropped.
    pub(crate) fn note(&self, known: &Known) {
        known.note(&self.maps);
    }

    /// How many pipelines are kept.
    #[cfg(test)]
    pub(crate) fn pipelines(&self) -> usize {
        lock(&self.maps).pipelines.len()
    }

    /// How many bind groups are kept.
    #[cfg(test)]
    pub(crate) fn bind_groups(&self) -> usize {
        lock(&self.maps).bind_groups.len()
    }

    /// Forgets every bind group of the buffers it is called with. For the pool, which the cache does not know.
    pub(crate) fn forgetter(&self) -> impl Fn(&[u64]) + Send + Sync + use<> {
        let maps = Arc::clone(&self.maps);
        move |dead| lock(&maps).forget_buffers(dead)
    }
}
