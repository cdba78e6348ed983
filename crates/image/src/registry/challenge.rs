//! What a registry asks for in `WWW-Authenticate` (RFC 9110, section 11.6.1).

/// One way to authenticate that a registry offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A name and a password with each request.
    Basic,
    /// A token from somewhere else.
    Bearer {
        /// Where to ask for it.
        realm: String,
        /// For which service.
        service: Option<String>,
        /// To do what.
        scope: Option<String>,
    },
}

/// Reads every challenge of every header; those of unknown schemes are left out. A bearer token
/// comes first: a registry that offers both means Basic for its token server.
pub(crate) fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = headers.flat_map(parse_header).collect();
    challenges.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
    challenges
}

fn parse_header(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut scheme = String::new();
    let mut parameters: Vec<(String, String)> = Vec::new();
    let mut rest = header.trim();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c == ',' || c.is_whitespace());
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        let after = after.trim_start();
        match after.strip_prefix('=') {
            Some(value) if !word.is_empty() => {
                let (value, remaining) = parse_value(value.trim_start());
                parameters.push((word.to_ascii_lowercase(), value));
                rest = remaining;
            }
            _ => {
                challenges.extend(finish(&scheme, &mut parameters));
                scheme = word.to_ascii_lowercase();
                // A stray '=' must not stop the reading for ever.
                rest = after.strip_prefix('=').unwrap_or(after);
            }
        }
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
    }
    challenges.extend(finish(&scheme, &mut parameters));
    challenges
}

fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &quoted[at + 1..]),
            _ => value.push(c),
        }
    }
    (value, "")
}

fn finish(scheme: &str, parameters: &mut Vec<(String, String)>) -> Option<Challenge> {
    let parameters = std::mem::take(parameters);
    let get = |key: &str| {
        parameters.iter().find(|(k, v)| k == key && !v.is_empty()).map(|(_, v)| v.clone())
    };
    match scheme {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer {
            realm: get("realm")?,
            service: get("service"),
            scope: get("scope"),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let docker =
            r#"Bearer realm="https://a/token",service="r",scope="repository:a/b:pull,push""#;
        let expected = bearer("https://a/token", Some("r"), Some("repository:a/b:pull,push"));
        assert_eq!(parse([docker].into_iter()), [expected]);
        assert_eq!(
            parse([r#"bearer realm=https://a"#].into_iter()),
            [bearer("https://a", None, None)]
        );
        assert_eq!(parse([r#"Basic realm="x, y=\"z\"""#].into_iter()), [Challenge::Basic]);
    }

    #[test]
    fn several_challenges_put_the_token_first() {
        let one = r#"Basic realm="x", Bearer realm="https://a" , Negotiate"#;
        assert_eq!(parse([one].into_iter()), [bearer("https://a", None, None), Challenge::Basic]);
        let two = ["Negotiate abc==", "Basic"];
        assert_eq!(parse(two.into_iter()), [Challenge::Basic]);
    }

    #[test]
    fn nonsense_ends() {
        for text in ["", "=", "===,,", "Bearer", "Bearer realm=", "Bearer realm=\"open", "a=b,=c"] {
            assert!(
                parse([text].into_iter()).iter().all(|c| matches!(c, Challenge::Bearer { .. }))
            );
        }
    }
}
