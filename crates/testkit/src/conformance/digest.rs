//! The one image that critest names by a digest.
//!
//! No stand-in can have that digest, so one spec would say nothing of a node that has not the
//! image itself. critest is run as a copy in which the stand-in's digest is in its place; the rest
//! of the spec is as it was.

use anyhow::{Result, ensure};

use crate::image::samples::Sample;

/// What critest's reference has before its 64 digits.
const BEFORE: &[u8] = b"gcr.io/k8s-staging-cri-tools/test-image-digest@sha256:";
const DIGITS: usize = 64;

/// Writes the digest of this image, which is pushed under nothing else, over that in critest's
/// program, wherever it stands.
///
/// # Errors
/// If the image is not known by a digest, or the program names none.
pub(super) fn stand_in(program: &mut [u8], image: &Sample) -> Result<()> {
    let digest = image.tags.first().and_then(|tag| tag.strip_prefix("sha256:")).unwrap_or("");
    ensure!(digest.len() == DIGITS, "{} is not pushed by its digest: {:?}", image.name, image.tags);
    let starts: Vec<usize> = program
        .windows(BEFORE.len() + DIGITS)
        .enumerate()
        .filter(|(_, bytes)| {
            let (before, digits) = bytes.split_at(BEFORE.len());
            before == BEFORE && digits.iter().all(u8::is_ascii_hexdigit)
        })
        .map(|(at, _)| at + BEFORE.len())
        .collect();
    ensure!(
        !starts.is_empty(),
        "no {}<64 digits> in this critest: has it another image by digest?",
        String::from_utf8_lossy(BEFORE)
    );
    for start in starts {
        program[start..start + DIGITS].copy_from_slice(digest.as_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Image;

    fn image(tag: String) -> Sample {
        Sample { name: "digest".to_owned(), tags: vec![tag], image: Image::new(Vec::new()) }
    }

    #[test]
    fn the_digest_is_written_over_wherever_it_stands_and_nothing_else_is() {
        let reference = |digit: &str| [BEFORE, digit.repeat(DIGITS).as_bytes()].concat();
        let of = |digit| [b"\x7fELF", &reference(digit)[..], b"more", &reference(digit)].concat();
        let mut program = of("a");
        stand_in(&mut program, &image(format!("sha256:{}", "b".repeat(DIGITS)))).unwrap();
        assert_eq!(program, of("b"));
    }

    #[test]
    fn a_program_that_names_no_digest_and_an_image_that_has_none_are_told() {
        let good = image(format!("sha256:{}", "b".repeat(DIGITS)));
        let short = [BEFORE, b"abc"].concat();
        let error = stand_in(&mut short.clone(), &good).unwrap_err().to_string();
        assert!(error.contains("another image by digest"), "{error}");
        let error = stand_in(&mut [], &image("latest".to_owned())).unwrap_err().to_string();
        assert!(error.contains("not pushed by its digest"), "{error}");
    }
}
