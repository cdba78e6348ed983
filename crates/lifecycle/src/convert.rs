//! Other crates' errors as failures: their kinds are ours by name.

use berth_pod::Kind;
use berth_pod::record::Failure;

use crate::Error;

/// The failure that an error of another crate means.
pub(crate) trait Fail {
    /// Its kind and its text.
    fn fail(self) -> Failure;
}

fn of_sys(kind: berth_sys::Kind) -> Kind {
    use berth_sys::Kind as K;
    match kind {
        K::Invalid => Kind::Invalid,
        K::NotFound => Kind::NotFound,
        K::Exists => Kind::Exists,
        K::Busy => Kind::Busy,
        K::TimedOut => Kind::TimedOut,
        K::Unimplemented => Kind::Unimplemented,
        K::Exhausted => Kind::Exhausted,
        K::ReadOnly => Kind::Unavailable,
        K::Denied | K::Broken => Kind::Broken,
    }
}

impl Fail for berth_sys::Error {
    fn fail(self) -> Failure {
        Failure::new(of_sys(self.kind()), self.to_string())
    }
}

impl Fail for berth_job::Error {
    fn fail(self) -> Failure {
        Failure::new(of_sys(self.kind()), self.to_string())
    }
}

impl Fail for berth_cgroup::Error {
    fn fail(self) -> Failure {
        Failure::new(of_sys(self.kind()), self.to_string())
    }
}

impl Fail for berth_log::Error {
    fn fail(self) -> Failure {
        let kind = match berth_sys::kind_of(&self.source) {
            // What was named as a log can be none.
            berth_sys::Kind::NotFound | berth_sys::Kind::Invalid | berth_sys::Kind::Exists => {
                Kind::Invalid
            }
            kind => of_sys(kind),
        };
        Failure::new(kind, self.to_string())
    }
}

impl Fail for berth_image::Error {
    fn fail(self) -> Failure {
        use berth_image::Kind as K;
        let kind = match self.kind() {
            K::Invalid => Kind::Invalid,
            K::NotFound => Kind::NotFound,
            K::Busy => Kind::Busy,
            K::TimedOut => Kind::TimedOut,
            K::Cancelled => Kind::Cancelled,
            K::Unauthorized => Kind::Denied,
            K::Unavailable => Kind::Unavailable,
            K::Unimplemented => Kind::Unimplemented,
            K::Exhausted => Kind::Exhausted,
            K::Broken => Kind::Broken,
        };
        Failure::new(kind, self.to_string())
    }
}

impl Fail for berth_cni::Error {
    fn fail(self) -> Failure {
        use berth_cni::Kind as K;
        let kind = match self.kind() {
            K::Invalid => Kind::Invalid,
            K::NotFound => Kind::NotFound,
            K::Busy => Kind::Busy,
            K::TimedOut => Kind::TimedOut,
            K::Unavailable => Kind::Unavailable,
            K::Unimplemented => Kind::Unimplemented,
            K::Exhausted => Kind::Exhausted,
            K::Broken => Kind::Broken,
        };
        Failure::new(kind, self.to_string())
    }
}

impl Fail for berth_shim_client::Error {
    fn fail(self) -> Failure {
        use berth_shim_client::Kind as K;
        let kind = match self.kind() {
            K::Invalid => Kind::Invalid,
            K::NotFound => Kind::NotFound,
            K::Exists => Kind::Exists,
            K::WrongState => Kind::WrongState,
            K::TimedOut => Kind::TimedOut,
            K::Cancelled => Kind::Cancelled,
            K::Unavailable => Kind::Unavailable,
            K::Unimplemented => Kind::Unimplemented,
            K::Exhausted => Kind::Exhausted,
            K::Broken => Kind::Broken,
        };
        Failure::new(kind, self.to_string())
    }
}

impl Fail for berth_oci::Error {
    fn fail(self) -> Failure {
        Failure::new(self.kind(), self.to_string())
    }
}

impl Fail for (&str, &std::path::Path, std::io::Error) {
    fn fail(self) -> Failure {
        let (attempt, path, why) = self;
        let kind = of_sys(berth_sys::kind_of(&why));
        Failure::new(kind, format!("cannot {attempt} {}: {why}", path.display()))
    }
}

impl<E: Fail> From<E> for crate::effect::Trouble {
    fn from(why: E) -> Self {
        Self::Failed(why.fail())
    }
}

/// What a use that failed is answered.
impl From<crate::effect::Trouble> for Error {
    fn from(trouble: crate::effect::Trouble) -> Self {
        use crate::effect::Trouble;
        match trouble {
            Trouble::Failed(why)
            | Trouble::Known(why)
            | Trouble::Living(why)
            | Trouble::Dead(why) => why.into(),
            Trouble::Aborted => Self::new(Kind::Cancelled, "it was aborted"),
        }
    }
}

impl From<Failure> for Error {
    fn from(why: Failure) -> Self {
        Self::new(why.kind, why.message)
    }
}

impl Fail for Failure {
    fn fail(self) -> Failure {
        self
    }
}
