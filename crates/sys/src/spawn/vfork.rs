//! The child's half, between the clone and the exec, in the parent's memory.
//!
//! Only system calls, on values the plan holds ready. Nothing here may allocate, lock, panic or
//! unwind: another thread of the parent may hold the allocator's lock at this very moment.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::Ordering;

use libc::{c_char, c_int, c_void};

use super::plan::Plan;
use super::{Group, Stage};

/// Where the child failed: the stage, which of its objects, and errno.
struct Failed(Stage, usize, c_int);

type Step = Result<(), Failed>;

/// The first function of the child.
pub(super) extern "C" fn main(plan: *mut c_void) -> c_int {
    // SAFETY: `Plan::clone_onto` passes a reference to a plan that lives until this child has
    // execed or exited.
    let plan = unsafe { &*plan.cast::<Plan>() };
    if let Err(Failed(stage, index, errno)) = prepare_and_exec(plan) {
        plan.report.stage.store(stage as u32, Ordering::Relaxed);
        plan.report.index.store(index as u32, Ordering::Relaxed);
        plan.report.errno.store(if errno == 0 { libc::EIO } else { errno }, Ordering::Release);
    }
    // SAFETY: _exit ends this process at once, without running the parent's exit handlers.
    unsafe { libc::_exit(127) }
}

fn prepare_and_exec(plan: &Plan) -> Step {
    default_handlers();
    enter_group(plan)?;
    for (index, path) in plan.cgroups.iter().enumerate() {
        write_file(path.as_ptr(), b"0").map_err(|errno| Failed(Stage::Cgroup, index, errno))?;
    }
    if let Some(value) = &plan.oom_score_adj {
        write_file(c"/proc/self/oom_score_adj".as_ptr(), value.to_bytes())
            .map_err(|errno| Failed(Stage::OomScore, 0, errno))?;
    }
    for (index, (fd, kind)) in plan.namespaces.iter().enumerate() {
        // SAFETY: setns takes two integers.
        let answer = unsafe { libc::setns(fd.as_raw_fd(), kind.flag() as c_int) };
        check(answer).map_err(|errno| Failed(Stage::Namespace, index, errno))?;
    }
    if let Some(mask) = plan.umask {
        // SAFETY: umask cannot fail; without CLONE_FS the mask is the child's own.
        unsafe { libc::umask(mask) };
    }
    if let Some(dir) = &plan.cwd {
        // SAFETY: `dir` is a NUL-terminated string that outlives the call.
        check(unsafe { libc::chdir(dir.as_ptr()) }).map_err(|e| Failed(Stage::Directory, 0, e))?;
    }
    place_descriptors(plan)?;
    limit_privileges(plan)?;
    exec(plan)
}

/// Signals set to be ignored stay so over an exec (Rust ignores SIGPIPE): all back to default.
fn default_handlers() {
    // The C library's sigaction refuses 32 and 33, which a foreign parent may have left ignored.
    let default = [0_u64; 8];
    for signal in 1..=64 {
        // SAFETY: the kernel reads its struct sigaction (32 bytes at most, with a mask of 8) from
        // the zeroes: SIG_DFL, no flags. Handlers are copies here (no CLONE_SIGHAND). For SIGKILL
        // and SIGSTOP the call fails, which leaves them as they are.
        unsafe {
            let none = ptr::null_mut::<c_void>();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, 8_usize);
        }
    }
}

fn enter_group(plan: &Plan) -> Step {
    // SAFETY: both calls take integers only.
    let answer = match plan.group {
        Group::Inherit => 0,
        Group::Own => unsafe { libc::setpgid(0, 0) },
        Group::Session | Group::Terminal => unsafe { libc::setsid() },
    };
    check(answer).map_err(|errno| Failed(Stage::Group, 0, errno))
}

/// First all sources out of the way of the targets, then each to its place. dup2 clears
/// close-on-exec, which every other descriptor gets here.
fn place_descriptors(plan: &Plan) -> Step {
    let failed = |index| move |errno| Failed(Stage::Descriptors, index, errno);
    let last =
        plan.descriptors.iter().fold(2, |last, d| if d.target > last { d.target } else { last });
    for (index, descriptor) in plan.descriptors.iter().enumerate() {
        // SAFETY: fcntl with F_DUPFD_CLOEXEC takes integers; the table is the child's own.
        let moved = unsafe { libc::fcntl(descriptor.raw(), libc::F_DUPFD_CLOEXEC, last + 1) };
        check(moved).map_err(failed(index))?;
        descriptor.moved.store(moved, Ordering::Relaxed);
    }
    // SAFETY: close_range takes integers. Before Linux 5.11 the flag is unknown: the parent's own
    // descriptors are close-on-exec anyway, this guards against those of foreign libraries.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
    for (index, descriptor) in plan.descriptors.iter().enumerate() {
        let moved = descriptor.moved.load(Ordering::Relaxed);
        // SAFETY: dup2 takes integers; the table is the child's own.
        check(unsafe { libc::dup2(moved, descriptor.target) }).map_err(failed(index))?;
    }
    if plan.group == Group::Terminal {
        // SAFETY: TIOCSCTTY takes an integer argument; fd 0 is the child's stdin.
        let answer = unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
        check(answer).map_err(|errno| Failed(Stage::Terminal, 0, errno))?;
    }
    Ok(())
}

fn limit_privileges(plan: &Plan) -> Step {
    let failed = |errno| Failed(Stage::Privileges, 0, errno);
    if plan.no_new_privs {
        // SAFETY: prctl with integers only.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map_err(failed)?;
    }
    if let Some(signal) = plan.parent_death {
        // After setns, which clears it. If the parent died before, the signal never comes.
        // SAFETY: prctl and getppid take integers only.
        unsafe {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, signal.number(), 0, 0, 0)).map_err(failed)?;
            if libc::getppid() != plan.parent {
                return Err(failed(libc::ESRCH));
            }
        }
    }
    Ok(())
}

fn exec(plan: &Plan) -> Step {
    // SAFETY: the set is plain data; from here on a signal has its default action. The three
    // pointers are NUL-terminated strings and NULL-terminated arrays of such, all in the plan.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        libc::execve(plan.program.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr());
    }
    Err(Failed(Stage::Exec, 0, errno()))
}

fn write_file(path: *const c_char, text: &[u8]) -> Result<(), c_int> {
    // SAFETY: `path` is NUL-terminated and `text` is valid for its length; the descriptor is
    // opened and closed here.
    unsafe {
        let fd = libc::open(path, libc::O_WRONLY | libc::O_CLOEXEC);
        check(fd)?;
        let count = libc::write(fd, text.as_ptr().cast(), text.len());
        let wrote = if count < 0 { Err(errno()) } else { Ok(()) };
        libc::close(fd);
        wrote
    }
}

fn check(answer: c_int) -> Result<(), c_int> {
    if answer < 0 { Err(errno()) } else { Ok(()) }
}

fn errno() -> c_int {
    // SAFETY: the location is that of the parent's thread, which is suspended.
    unsafe { *libc::__errno_location() }
}
