//! A caller's own kernel: a WGSL file read at run time, judged by the rules that the build applies to ours, and called by
//! name. Our kernels are typed when the crate is built; a file that comes later cannot be, so every argument of a
//! [`Call`] is compared with the interface that reflection found, and what does not fit is said with what there is. A kernel
//! bound by position would compute nonsense where two buffers are exchanged, and nobody would say so.

use std::path::Path;
use std::sync::Arc;

use crate::cache::{Blueprint, Known};
use crate::error::{Error, Result};
use crate::kernel::{
    Format, Kernel, MAX_CONSTANTS, ParamsVia, UNIFORM_PARAMS, Variant, constant_spans, kernels, patch,
};
use crate::pass::Pass;
use crate::pool::next_id;
use crate::reflect::{Constant, Field, Interface, Slot, reflect};
use crate::tensor::{DType, Tensor};

/// A kernel from a caller's WGSL. Cloning makes another handle; the pipelines of a kernel are freed with its last one.
///
/// The text follows the rules of [`reflect`](mod@crate::reflect), which are those of the files in `shaders/`.
///
/// ```
/// use gristmill::{ComputeBackend, GpuCompute, OwnKernel};
///
/// const SOURCE: &str = "
/// struct Params {
///     /// Elements.
///     n: u32,
///     a: f32,
/// }
/// var<immediate> p: Params;
/// @group(0) @binding(0) var<storage, read> x: array<f32>;
/// @group(0) @binding(1) var<storage, read_write> y: array<f32>;
///
/// @compute @workgroup_size(64)
/// fn saxpy(@builtin(global_invocation_id) id: vec3u) {
///     if id.x < p.n { y[id.x] += p.a * x[id.x]; }
/// }
/// ";
///
/// let kernel = OwnKernel::new("saxpy.wgsl", &format!("//! op: saxpy{SOURCE}"))?;
/// let gpu = GpuCompute::new(ComputeBackend::Gpu)?;
/// let (x, mut y) = (gpu.tensor(&[1.0, 2.0, 3.0], &[3])?, gpu.tensor(&[10.0, 20.0, 30.0], &[3])?);
/// let mut pass = gpu.pass();
/// kernel.call().read("x", &x).write("y", &mut y).param("n", 3u32).param("a", 2.0).record(&mut pass, [1, 1, 1])?;
/// pass.submit()?;
/// assert_eq!(gpu.read::<f32>(&y)?, [12.0, 24.0, 36.0]);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Clone)]
pub struct OwnKernel {
    shared: Arc<Shared>,
}

struct Shared {
    id: usize,
    path: String,
    interface: Interface,
    source: String,
    known: Known,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.known.forget_kernel(self.id);
    }
}

impl std::fmt::Debug for OwnKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnKernel").field("interface", self.interface()).finish()
    }
}

impl OwnKernel {
    /// A kernel from its text. `path` is what messages call the file; its stem is the name of the entry point.
    ///
    /// # Errors
    /// [`Error::Shader`] with naga's message, the path and the line, or with the rule that the text breaks.
    pub fn new(path: &str, source: &str) -> Result<OwnKernel> {
        OwnKernel::called(path, path, source)
    }

    /// A kernel from a file that may have any name; the entry point is called `name`.
    ///
    /// # Errors
    /// As [`OwnKernel::from_file`].
    pub fn from_file_as(path: impl AsRef<Path>, name: &str) -> Result<OwnKernel> {
        let path = path.as_ref();
        let called = path.with_file_name(format!("{name}.wgsl"));
        OwnKernel::called(&called.to_string_lossy(), &path.to_string_lossy(), &read(path)?)
    }

    /// `called` gives the name, `path` stands in messages.
    fn called(called: &str, path: &str, source: &str) -> Result<OwnKernel> {
        let interface = reflect(called, source).map_err(|message| Error::Shader(message.replace(called, path)))?;
        let constants = interface.knobs.len() + interface.modes.len();
        if constants > MAX_CONSTANTS {
            return Err(Error::Shader(format!("{path}: {constants} knobs and modes; at most {MAX_CONSTANTS}")));
        }
        // Numbers of our kernels are their indices.
        let id = usize::try_from(next_id()).unwrap_or(usize::MAX).saturating_add(kernels::ALL.len());
        let (path, source, known) = (path.to_owned(), source.to_owned(), Known::default());
        Ok(OwnKernel { shared: Arc::new(Shared { id, path, interface, source, known }) })
    }

    /// A kernel from a file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; as [`OwnKernel::new`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<OwnKernel> {
        let path = path.as_ref();
        OwnKernel::new(&path.to_string_lossy(), &read(path)?)
    }

    /// The name of its entry point.
    pub fn name(&self) -> &str {
        &self.interface().name
    }

    /// What its text says of it.
    pub fn interface(&self) -> &Interface {
        &self.shared.interface
    }

    /// What messages call its file.
    pub fn path(&self) -> &str {
        &self.shared.path
    }

    /// Its text.
    pub fn source(&self) -> &str {
        &self.shared.source
    }

    /// A call of it, to be given its arguments by name.
    pub fn call(&self) -> Call<'_> {
        let slots = self.interface().bindings.len();
        let fields = self.interface().params.len();
        let mut constants = [0; MAX_CONSTANTS];
        let declared = self.interface().knobs.iter().chain(&self.interface().modes);
        constants.iter_mut().zip(declared).for_each(|(value, constant)| *value = constant.default);
        Call { kernel: self, tensors: vec![None; slots], params: vec![None; fields], constants, refused: None }
    }

    pub(crate) fn known(&self) -> &Known {
        &self.shared.known
    }

    pub(crate) fn blueprint(&self) -> Blueprint<'_> {
        let interface = self.interface();
        let writes = interface.bindings.iter().map(|slot| slot.write);
        Blueprint::new(self.shared.id, &interface.name, writes, 4 * interface.params.len() as u32)
    }

    /// The WGSL of one variant, validated once more where its knobs are not those of the file.
    ///
    /// # Errors
    /// [`Error::Shader`] with naga's message, the path and the line: the kernel's own assertions, as a rule.
    pub(crate) fn wgsl(&self, variant: &Variant) -> Result<String> {
        let interface = self.interface();
        let constants = interface.knobs.iter().chain(&interface.modes);
        let mut spans = constant_spans(constants.map(|c| (c.default, (c.span.start, c.span.end))), variant);
        if !spans.is_empty() {
            let tuned = patch(&self.shared.source, spans.clone());
            crate::reflect::validate(&self.shared.path, &tuned).map_err(Error::Shader)?;
        }
        if let (Some(span), Some(functions)) = (&interface.format, variant.format.functions()) {
            spans.push((span.clone(), functions.to_owned()));
        }
        if variant.params == ParamsVia::Uniform {
            spans.push((interface.params_line.clone(), UNIFORM_PARAMS.to_owned()));
        }
        Ok(patch(&self.shared.source, spans))
    }

    /// The variant that computes what one of `kernel` does, with these knobs.
    pub(crate) fn in_place_of(&self, kernel: &Kernel, variant: &Variant, knobs: &[u32]) -> Variant {
        let interface = self.interface();
        let modes = variant.constants.iter().skip(kernel.knobs.len());
        let mode =
            |name: &str| kernel.modes.iter().zip(modes.clone()).find(|(mode, _)| mode.name == name).map(|(_, v)| *v);
        let mut constants = [0; MAX_CONSTANTS];
        let own = (0..).zip(&interface.knobs).map(|(i, knob)| knobs.get(i).copied().unwrap_or(knob.default));
        let own = own.chain(interface.modes.iter().map(|own| mode(&own.name).unwrap_or(own.default)));
        constants.iter_mut().zip(own).for_each(|(value, own)| *value = own);
        Variant { constants, ..*variant }
    }

    pub(crate) fn refuse(&self, message: String) -> Error {
        Error::Kernel { kernel: self.name().to_owned(), message }
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| Error::Io { path: path.to_owned(), message: e.to_string() })
}

/// A parameter's value.
///
/// ```
/// use gristmill::Value;
///
/// assert_eq!([Value::from(7u32), Value::from(-7), Value::from(0.5)], [Value::U32(7), Value::I32(-7), Value::F32(0.5)]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// A `u32` of the WGSL.
    U32(u32),
    /// An `i32` of the WGSL.
    I32(i32),
    /// An `f32` of the WGSL.
    F32(f32),
}

impl Value {
    fn ty(self) -> &'static str {
        match self {
            Value::U32(_) => "u32",
            Value::I32(_) => "i32",
            Value::F32(_) => "f32",
        }
    }

    fn bytes(self) -> [u8; 4] {
        match self {
            Value::U32(value) => value.to_ne_bytes(),
            Value::I32(value) => value.to_ne_bytes(),
            Value::F32(value) => value.to_ne_bytes(),
        }
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Value {
        Value::U32(value)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Value {
        Value::I32(value)
    }
}

impl From<f32> for Value {
    fn from(value: f32) -> Value {
        Value::F32(value)
    }
}

/// A call of an [`OwnKernel`] that is being given its arguments. What does not fit is kept, and said by [`Call::record`].
///
/// ```
/// use gristmill::{ComputeBackend, Error, GpuCompute, OwnKernel, kernels};
///
/// // Any text will do that follows the rules; here, one of ours.
/// let kernel = OwnKernel::new("relu.wgsl", kernels::relu::KERNEL.source)?;
/// let gpu = GpuCompute::new(ComputeBackend::Gpu)?;
/// let (mut pass, mut x) = (gpu.pass(), gpu.tensor(&[-1.0, 2.0, -3.0, 4.0], &[4])?);
/// let refused = kernel.call().write("y", &mut x).record(&mut pass, [1, 1, 1]);
/// assert_eq!(refused.unwrap_err().to_string(), "kernel `relu`: no buffer `y`; there are `x`");
/// kernel.call().write("x", &mut x).param("quads", 1u32).constant("WG", 32).record(&mut pass, [1, 1, 1])?;
/// pass.submit()?;
/// assert_eq!(gpu.read::<f32>(&x)?, [0.0, 2.0, 0.0, 4.0]);
/// # Ok::<(), gristmill::Error>(())
/// ```
#[must_use = "a call does nothing before `record`"]
pub struct Call<'a> {
    kernel: &'a OwnKernel,
    tensors: Vec<Option<&'a Tensor>>,
    params: Vec<Option<Value>>,
    constants: [u32; MAX_CONSTANTS],
    refused: Option<Error>,
}

impl std::fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").field("kernel", &self.kernel.name()).field("params", &self.params).finish()
    }
}

impl<'a> Call<'a> {
    /// A tensor that the kernel reads.
    pub fn read(self, name: &str, tensor: &'a Tensor) -> Call<'a> {
        self.bind(name, tensor, false)
    }

    /// A tensor that the kernel writes, or reads and writes.
    pub fn write(self, name: &str, tensor: &'a mut Tensor) -> Call<'a> {
        self.bind(name, tensor, true)
    }

    /// A member of the kernel's `Params`.
    pub fn param(mut self, name: &str, value: impl Into<Value>) -> Call<'a> {
        let (value, fields) = (value.into(), &self.kernel.interface().params);
        let found = fields.iter().zip(&mut self.params).find(|(field, _)| field.name == name);
        match found {
            Some((field, place)) if field.ty == value.ty() => *place = Some(value),
            Some((field, _)) => {
                let message = format!("parameter `{name}` is {}, and {value:?} is not", field.ty);
                return self.refuse(message);
            }
            None => {
                let message = format!("no parameter `{name}`; there are {}", listed(fields, |field| &field.name));
                return self.refuse(message);
            }
        }
        self
    }

    /// A knob or a mode of the kernel; one that is not given has its value in the file.
    pub fn constant(mut self, name: &str, value: u32) -> Call<'a> {
        let declared = self.kernel.interface().knobs.iter().chain(&self.kernel.interface().modes);
        match declared.zip(&mut self.constants).find(|(constant, _)| constant.name == name) {
            Some((_, place)) => *place = value,
            None => {
                let all: Vec<&Constant> =
                    self.kernel.interface().knobs.iter().chain(&self.kernel.interface().modes).collect();
                let message = format!("no knob or mode `{name}`; there are {}", listed(&all, |c| &c.name));
                return self.refuse(message);
            }
        }
        self
    }

    /// Records one dispatch of `grid` workgroups.
    ///
    /// # Errors
    /// [`Error::Kernel`] with the first argument that does not fit, or is missing; [`Error::Shader`] if knobs are set to
    /// values that the kernel's own assertions refuse; [`Error::Limit`], [`Error::TooLarge`].
    pub fn record(self, pass: &mut Pass, grid: [u32; 3]) -> Result<()> {
        let Call { kernel, tensors, params, constants, refused } = self;
        if let Some(error) = refused {
            return Err(error);
        }
        let interface = kernel.interface();
        let unbound = tensors.iter().zip(&interface.bindings).find(|(tensor, _)| tensor.is_none());
        let unset = params.iter().zip(&interface.params).find(|(value, _)| value.is_none());
        if let Some((_, Slot { name, .. })) = unbound {
            return Err(kernel.refuse(format!("no tensor for `{name}`")));
        }
        if let Some((_, Field { name, .. })) = unset {
            return Err(kernel.refuse(format!("no value for the parameter `{name}`")));
        }
        let variant = Variant { constants, format: Format::F32, params: ParamsVia::Immediate };
        let tensors: Vec<&Tensor> = tensors.into_iter().flatten().collect();
        let bytes: Vec<u8> = params.into_iter().flatten().flat_map(Value::bytes).collect();
        pass.run_own(kernel, &tensors, &bytes, variant, grid)
    }

    fn bind(mut self, name: &str, tensor: &'a Tensor, write: bool) -> Call<'a> {
        let slots = &self.kernel.interface().bindings;
        let found = slots.iter().zip(&mut self.tensors).find(|(slot, _)| slot.name == name);
        let message = match found {
            None => format!("no buffer `{name}`; there are {}", listed(slots, |slot| &slot.name)),
            Some((slot, _)) if slot.write != write => {
                let [is, was] = if write { ["read", "write"] } else { ["written", "read"] };
                format!("`{name}` is {is} by the kernel, and was given by `{was}`")
            }
            Some((slot, _)) if !holds(&slot.ty, tensor) => {
                format!("`{name}` is array<{}>, and {tensor:?} is not", slot.ty)
            }
            Some((_, place)) => {
                *place = Some(tensor);
                return self;
            }
        };
        self.refuse(message)
    }

    fn refuse(mut self, message: String) -> Call<'a> {
        self.refused = self.refused.or_else(|| Some(self.kernel.refuse(message)));
        self
    }
}

fn listed<T>(all: &[T], name: impl Fn(&T) -> &String) -> String {
    let names: Vec<String> = all.iter().map(|one| format!("`{}`", name(one))).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Whether an array of `ty` in WGSL is what the tensor holds: floats as floats, everything else as words, and vectors only
/// where rows start at multiples of 16 bytes. What a struct of the kernel's own means, its author knows.
fn holds(ty: &str, tensor: &Tensor) -> bool {
    let (vector, element) = ty.strip_suffix('>').and_then(|ty| ty.split_once('<')).unwrap_or(("", ty));
    let fits = match element {
        "f32" => tensor.dtype() == DType::F32,
        "u32" | "i32" => tensor.dtype() != DType::F32,
        _ => true,
    };
    fits && (vector.is_empty() || tensor.is_aligned())
}
