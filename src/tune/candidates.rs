//! What is tuned: a kernel, or a file in its place, with the values that its knobs may take.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::gpu::GpuCompute;
use crate::kernel::{Format, Kernel, MAX_CONSTANTS, kernels};
use crate::own_kernel::OwnKernel;
use crate::tuning::Trial;

/// Combinations of knobs that are looked at, at most.
const MAX_COMBINATIONS: usize = 4096;

/// A knob of what is tuned.
///
/// ```
/// use gristmill::tune::Tuned;
///
/// let tuned = Tuned::kernel("matmul")?;
/// assert_eq!((tuned.knobs()[0].name.as_str(), tuned.knobs()[0].default), ("BM", 64));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Knob {
    /// Its name in the WGSL.
    pub name: String,
    /// What it is.
    pub doc: String,
    /// Values that it may take.
    pub values: Vec<u32>,
    /// The value in the file.
    pub default: u32,
}

/// A kernel that is tuned, or a file that computes the same in its place.
///
/// ```
/// use gristmill::tune::Tuned;
///
/// let mut tuned = Tuned::kernel("gelu")?;
/// tuned.set_values("WG", vec![64, 96])?;
/// assert!(tuned.set_values("BM", vec![1]).unwrap_err().to_string().contains("WG"));
/// # Ok::<(), gristmill::Error>(())
/// ```
#[derive(Clone)]
pub struct Tuned {
    pub(super) kernel: &'static Kernel,
    pub(super) own: Option<OwnKernel>,
    knobs: Vec<Knob>,
}

impl std::fmt::Debug for Tuned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tuned").field("kernel", &self.kernel.name).field("knobs", &self.knobs).finish()
    }
}

fn bad(option: &'static str, message: String) -> Error {
    Error::BadOption { option, message }
}

impl Tuned {
    /// A kernel of this crate.
    ///
    /// # Errors
    /// [`Error::BadOption`] with the kernels that have knobs, if there is none of that name, or it has none.
    pub fn kernel(name: &str) -> Result<Tuned> {
        let with_knobs = || kernels::ALL.iter().copied().filter(|kernel| !kernel.knobs.is_empty());
        let kernel = with_knobs().find(|kernel| kernel.name == name).ok_or_else(|| {
            let known: Vec<&str> = with_knobs().map(|kernel| kernel.name).collect();
            bad("KERNEL", format!("`{name}` is no kernel with knobs; there are {}", known.join(", ")))
        })?;
        let knob = |knob: &crate::kernel::Constant| Knob {
            name: knob.name.to_owned(),
            doc: knob.doc.to_owned(),
            values: knob.values.to_vec(),
            default: knob.default,
        };
        Ok(Tuned { kernel, own: None, knobs: kernel.knobs.iter().map(knob).collect() })
    }

    /// A file in place of a kernel. It has the kernel's bindings, parameters and modes; its knobs are its own. Where a knob has
    /// the name of one of the kernel's, the grid follows it.
    ///
    /// # Errors
    /// As [`Tuned::kernel`]; [`Error::Kernel`] that says in which binding, parameter or mode the file differs.
    pub fn in_place_of(name: &str, own: OwnKernel) -> Result<Tuned> {
        let Tuned { kernel, .. } = Tuned::kernel(name)?;
        if let Some(difference) = difference(kernel, &own) {
            return Err(own.refuse(format!("it cannot stand in place of {name}: {difference}")));
        }
        let knob = |knob: &crate::reflect::Constant| Knob {
            name: knob.name.clone(),
            doc: knob.doc.clone(),
            values: knob.values.clone(),
            default: knob.default,
        };
        let knobs = own.interface().knobs.iter().map(knob).collect();
        Ok(Tuned { kernel, own: Some(own), knobs })
    }

    /// The kernel whose place it is.
    pub fn name(&self) -> &'static str {
        self.kernel.name
    }

    /// What it computes.
    pub fn op(&self) -> &'static str {
        self.kernel.op
    }

    /// Its knobs.
    pub fn knobs(&self) -> &[Knob] {
        &self.knobs
    }

    /// Other values of a knob than those in the file.
    ///
    /// # Errors
    /// [`Error::BadOption`] with the knobs that there are, or if there are no values.
    pub fn set_values(&mut self, name: &str, values: Vec<u32>) -> Result<()> {
        let known: Vec<&str> = self.knobs.iter().map(|knob| knob.name.as_str()).collect();
        let unknown =
            bad("--knob", format!("`{name}` is no knob of {}, which has {}", self.kernel.name, known.join(", ")));
        let knob = self.knobs.iter_mut().find(|knob| knob.name == name).ok_or(unknown)?;
        if values.is_empty() {
            return Err(bad("--knob", format!("`{name}` has no values; give some, as {name}=32,64")));
        }
        knob.values = values;
        Ok(())
    }

    /// The values in the file.
    pub fn default(&self) -> Vec<u32> {
        self.knobs.iter().map(|knob| knob.default).collect()
    }

    /// A hash of the text, but for comments and the values of knobs: results stay those of a kernel that got another default,
    /// or one more value to try. FNV-1a, 64 bits.
    pub fn source_hash(&self) -> String {
        let (source, spans): (&str, Vec<_>) = match &self.own {
            Some(own) => (own.source(), own.interface().knobs.iter().map(|knob| knob.span.clone()).collect()),
            None => (self.kernel.source, self.kernel.knobs.iter().map(|knob| knob.span.0..knob.span.1).collect()),
        };
        let blank = crate::kernel::patch(source, spans.into_iter().map(|span| (span, "?".to_owned())).collect());
        let code = blank.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for byte in code.filter(|line| !line.is_empty()).flat_map(|line| line.bytes().chain([b'\n'])) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        format!("{hash:016x}")
    }

    /// Every combination of values, the default first, then what differs from it in few knobs.
    ///
    /// # Errors
    /// [`Error::BadOption`] if there are too many.
    pub(super) fn combinations(&self) -> Result<Vec<Vec<u32>>> {
        let count = self.knobs.iter().try_fold(1usize, |count, knob| count.checked_mul(knob.values.len()));
        if count.is_none_or(|count| count > MAX_COMBINATIONS) {
            return Err(bad("--knob", format!("more than {MAX_COMBINATIONS} combinations; give fewer values")));
        }
        let mut all = vec![Vec::new()];
        for knob in &self.knobs {
            let longer =
                |one: &Vec<u32>| knob.values.iter().map(|value| [one.as_slice(), &[*value]].concat()).collect();
            all = all.iter().flat_map(|one| -> Vec<Vec<u32>> { longer(one) }).collect();
        }
        let default = self.default();
        all.retain(|one| *one != default);
        all.sort_by_key(|one| one.iter().zip(&default).filter(|(a, b)| a != b).count());
        all.insert(0, default);
        Ok(all)
    }

    /// What is to run.
    pub(super) fn trial(&self, values: &[u32]) -> Trial {
        let named =
            |name: &str| self.knobs.iter().zip(values).find(|(knob, _)| knob.name == name).map(|(_, value)| *value);
        let mut knobs = [0; MAX_CONSTANTS];
        for (value, knob) in knobs.iter_mut().zip(self.kernel.knobs) {
            *value = named(knob.name).unwrap_or(knob.default);
        }
        Trial { kernel: self.kernel, knobs, own: self.own.clone().map(|own| (own, values.to_vec())) }
    }

    /// Why a combination is none: naga's word on its text, which holds the file's assertions.
    pub(super) fn illegal(&self, gpu: &GpuCompute, values: &[u32], format: Format) -> Option<String> {
        let trial = self.trial(values);
        let mut variant = self.kernel.default_variant();
        variant.format = format;
        for (place, value) in variant.constants.iter_mut().zip(trial.knobs).take(self.kernel.knobs.len()) {
            *place = value;
        }
        let (path, text) = match &self.own {
            None => (format!("{}.wgsl", self.kernel.name), Ok(self.kernel.wgsl(&variant))),
            Some(own) => (own.path().to_owned(), own.wgsl(&own.in_place_of(self.kernel, &variant, values))),
        };
        let size = match text {
            Err(error) => return Some(error.to_string()),
            Ok(text) => crate::reflect::resources(&path, &text),
        };
        let limits = gpu.limits()?;
        match size {
            Err(message) => Some(message),
            Ok((_, bytes)) if bytes > limits.max_compute_workgroup_storage_size => Some(format!(
                "{bytes} bytes of workgroup memory; the device has {}",
                limits.max_compute_workgroup_storage_size
            )),
            Ok((size, _)) if size.iter().product::<u32>() > limits.max_compute_invocations_per_workgroup => {
                let most = limits.max_compute_invocations_per_workgroup;
                Some(format!("{} invocations; the device has {most} per workgroup", size.iter().product::<u32>()))
            }
            Ok(_) => None,
        }
    }
}

/// In what a file differs from the kernel whose place it is to take.
fn difference(kernel: &Kernel, own: &OwnKernel) -> Option<String> {
    let interface = own.interface();
    let bindings = |list: &mut dyn Iterator<Item = (String, String, bool)>| -> Vec<String> {
        list.map(|(name, ty, write)| format!("{name}: {}array<{ty}>", if write { "read_write " } else { "" })).collect()
    };
    let theirs = bindings(&mut interface.bindings.iter().map(|b| (b.name.clone(), b.ty.clone(), b.write)));
    let ours = bindings(&mut kernel.bindings.iter().map(|b| (b.name.to_owned(), b.ty.to_owned(), b.write)));
    let pairs = [
        ("bindings", theirs, ours),
        (
            "parameters",
            interface.params.iter().map(|p| format!("{}: {}", p.name, p.ty)).collect(),
            kernel.params.iter().map(|p| format!("{}: {}", p.name, p.ty)).collect(),
        ),
        (
            "modes",
            interface.modes.iter().map(|mode| mode.name.clone()).collect(),
            kernel.modes.iter().map(|mode| mode.name.to_owned()).collect(),
        ),
    ];
    for (what, theirs, ours) in pairs {
        if theirs != ours {
            let place = theirs.iter().zip(&ours).position(|(a, b)| a != b).unwrap_or(theirs.len().min(ours.len()));
            let at = |list: &[String]| list.get(place).map_or_else(|| "none".to_owned(), |one| format!("`{one}`"));
            return Some(format!("of its {what}, number {place} is {}, not {}", at(&theirs), at(&ours)));
        }
    }
    if interface.name != kernel.name && interface.op != kernel.op {
        return Some(format!("it computes {}, not {}", interface.op, kernel.op));
    }
    (interface.format.is_some() != kernel.format.is_some())
        .then(|| "one has the markers of a weight format, the other has not".to_owned())
}
