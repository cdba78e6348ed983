//! From v1's cpu shares to v2's cpu weight.

/// The cpu.weight (1 to 10000) for a number of cpu shares (2 to 262144); `None` for 0 shares, which
/// stands for "unset".
///
/// A curve through (2, 1), (1024, 100) and (262144, 10000), so that the default of the one becomes
/// the default of the other: current OCI runtimes compute it so.
pub fn weight(shares: u64) -> Option<u64> {
    match shares {
        0 => None,
        1..=2 => Some(1),
        262_144.. => Some(10_000),
        _ => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            Some((10_f64.powf(exponent).ceil() as u64).clamp(1, 10_000))
        }
    }
}

/// The straight line of older runtimes, through (2, 1) and (262144, 10000): 1024 shares become 39.
pub fn linear_weight(shares: u64) -> Option<u64> {
    if shares == 0 {
        return None;
    }
    let shares = shares.clamp(2, 262_144);
    Some(1 + ((shares - 2) * 9999) / 262_142)
}

/// The name that cgroups have for huge pages of this size, from that of their directory in sysfs:
/// `hugepages-2048kB` → `2MB`.
pub(crate) fn hugepage_size(directory: &str) -> Option<String> {
    let kilobytes: u64 = directory.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kilobytes {
        size if size >= 1 << 20 => format!("{}GB", size >> 20),
        size if size >= 1 << 10 => format!("{}MB", size >> 10),
        size => format!("{size}KB"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_have_the_names_of_their_cgroup_files() {
        for (directory, name) in [("2048", "2MB"), ("1048576", "1GB"), ("64", "64KB")] {
            let directory = format!("hugepages-{directory}kB");
            assert_eq!(hugepage_size(&directory).as_deref(), Some(name));
        }
        assert_eq!(hugepage_size("nr_hugepages"), None);
    }

    #[test]
    fn the_fixed_points_of_the_curve() {
        assert_eq!(weight(0), None);
        for (shares, expected) in
            [(1, 1), (2, 1), (1024, 100), (262_144, 10_000), (1 << 40, 10_000)]
        {
            assert_eq!(weight(shares), Some(expected), "{shares} shares");
        }
    }

    #[test]
    fn more_shares_never_weigh_less() {
        let weights: Vec<_> = (1..=262_144).step_by(37).map(|s| weight(s).unwrap()).collect();
        assert!(weights.windows(2).all(|pair| pair[0] <= pair[1]));
        assert!(weights.iter().all(|w| (1..=10_000).contains(w)));
    }

    #[test]
    fn the_old_line() {
        assert_eq!(linear_weight(0), None);
        for (shares, expected) in [(2, 1), (100, 4), (1024, 39), (262_144, 10_000)] {
            assert_eq!(linear_weight(shares), Some(expected), "{shares} shares");
        }
    }
}
