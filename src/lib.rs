#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod error;
pub mod kernel;
mod quants;
pub mod reference;

// `reflect` finds it where it stands in the build as well.
#[cfg(feature = "gpu")]
use kernel::Needs;

#[cfg(feature = "gpu")]
pub mod reflect;

#[cfg(feature = "gpu")]
mod adapter;
#[cfg(all(test, feature = "gpu"))]
mod border_tests;
#[cfg(feature = "gpu")]
mod cache;
#[cfg(feature = "gpu")]
mod counters;
#[cfg(feature = "gpu")]
mod cpu;
#[cfg(feature = "gpu")]
mod encode;
#[cfg(all(test, feature = "gpu"))]
mod engine_tests;
#[cfg(all(test, feature = "gpu"))]
mod fault_tests;
#[cfg(all(test, feature = "gpu"))]
mod faults;
#[cfg(feature = "gpu")]
mod gpu;
#[cfg(all(test, feature = "gpu"))]
mod guest_tests;
#[cfg(feature = "gpu")]
pub mod ops;
#[cfg(feature = "gpu")]
mod own_kernel;
#[cfg(feature = "gpu")]
mod pass;
#[cfg(feature = "gpu")]
mod pool;
#[cfg(feature = "gpu")]
mod queue;
#[cfg(feature = "gpu")]
mod readback;
#[cfg(all(test, feature = "gpu"))]
mod readback_tests;
#[cfg(feature = "gpu")]
mod result;
#[cfg(feature = "gpu")]
mod scheduler;
#[cfg(all(test, feature = "gpu"))]
mod scheduler_model_tests;
#[cfg(all(test, feature = "gpu"))]
mod scheduler_tests;
#[cfg(feature = "gpu")]
mod slices;
#[cfg(feature = "gpu")]
mod tensor;
#[cfg(feature = "bench")]
pub mod tune;
#[cfg(feature = "gpu")]
pub mod tuning;
#[cfg(all(test, feature = "gpu"))]
mod unchecked_tests;
#[cfg(feature = "gpu")]
pub mod verify;

#[cfg(feature = "bench")]
pub mod bench;
#[cfg(feature = "models")]
pub mod model;
pub use error::{Error, Result};
pub use kernel::{Format, kernels};

#[cfg(feature = "models")]
pub use model::{GpuModel, Session};
#[cfg(feature = "gpu")]
pub use {
    adapter::{AdapterFacts, INSTALL_HINT, Surveyed, survey},
    cache::layout_entries,
    counters::Stats,
    encode::{Clock, DispatchTime, PassTimes, Work},
    gpu::{Arithmetic, ComputeBackend, GpuCompute, Options},
    own_kernel::{Call, OwnKernel, Value},
    pass::{Pass, Recording},
    pool::{GpuBufferPool, PoolStats},
    queue::Poller,
    readback::Readback,
    result::AsyncGpuResult,
    scheduler::{
        Calibration, Cost, Decision, HostPoolStats, HybridScheduler, MatmulOp, Place, Residency, SchedulerStats, Table,
        Why,
    },
    tensor::{DType, Tensor, Weight},
    tuning::Tuning,
};
#[cfg(feature = "gpu")]
pub use {half, wgpu};
