//! Making an io_uring: how it runs deferred work, and what the kernel must be able to do.

use std::io;

use io_uring::{IoUring, opcode};

/// How deferred work is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// When we ask for completions, on our thread (`DEFER_TASKRUN`, Linux 6.1).
    Deferred,
    /// When we enter the kernel for whatever reason (`COOP_TASKRUN`).
    Cooperative,
}

/// Makes a ring on a thread that ends at once. The kernel interrupts the thread that made a ring when the ring goes, and
/// system calls with a timeout then fail with `EINTR`: that must not befall a thread of whoever embeds us.
pub(super) fn make_ring(may_defer: bool) -> io::Result<(IoUring, Mode)> {
    std::thread::scope(|scope| {
        let maker = std::thread::Builder::new()
            .name("ring-maker".to_owned())
            .spawn_scoped(scope, move || make_ring_here(may_defer))?;
        let (ring, mode) = maker.join().expect("making a ring does not panic")?;
        check_features(&ring)?;
        Ok((ring, mode))
    })
}

fn make_ring_here(may_defer: bool) -> io::Result<(IoUring, Mode)> {
    let mut deferred = IoUring::builder();
    deferred.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    deferred.setup_r_disabled().setup_submit_all().setup_cqsize(COMPLETIONS);
    if may_defer {
        match deferred.build(SUBMISSIONS) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            result => return result.map(|ring| (ring, Mode::Deferred)),
        }
    }
    let mut cooperative = IoUring::builder();
    cooperative.setup_coop_taskrun().setup_taskrun_flag();
    cooperative.setup_r_disabled().setup_submit_all().setup_cqsize(COMPLETIONS);
    cooperative.build(SUBMISSIONS).map(|ring| (ring, Mode::Cooperative))
}

/// Refuses kernels that lack something this back end stands on.
fn check_features(ring: &IoUring) -> io::Result<()> {
    let parameters = ring.params();
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    // Multishot receive cannot be asked for; it came with Linux 6.0, as zero-copy send did.
    let needs = [
        ("timeouts of io_uring_enter", parameters.is_feature_ext_arg()),
        ("completions that are never dropped", parameters.is_feature_nodrop()),
        ("skipped completions", parameters.is_feature_skip_cqe_on_success()),
        ("messages between rings", probe.is_supported(opcode::MsgRingData::CODE)),
        ("multishot receive (Linux 6.0)", probe.is_supported(opcode::SendZc::CODE)),
    ];
    match needs.iter().find(|(_, has)| !has) {
        Some((what, _)) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, format!("this kernel's io_uring lacks {what}")))
        }
        None => Ok(()),
    }
}

/// Requests queued between enters; more are submitted on the way.
const SUBMISSIONS: u32 = 512;
/// Completions that the kernel can leave behind; beyond, it keeps them and we ask for them.
pub(super) const COMPLETIONS: u32 = 4096;
