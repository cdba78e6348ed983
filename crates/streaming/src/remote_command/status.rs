//! What the error stream says.

use serde::Serialize;

use crate::Failure;

/// How it went.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The command ended with this code.
    Exit(i32),
    /// It did not get so far.
    Failed(Failure),
}

/// In which form the client understands it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A metav1.Status as JSON: v4 and later.
    Json,
    /// The bare message of a failure, nothing for success.
    Text,
}

#[derive(Serialize)]
struct Status<'a> {
    metadata: Metadata,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Metadata {}

#[derive(Serialize)]
struct Details<'a> {
    causes: [Cause<'a>; 1],
}

#[derive(Serialize)]
struct Cause<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    message: &'a str,
}

impl Outcome {
    /// The text for the error stream.
    pub(super) fn text(&self, form: Form) -> String {
        let message = match self {
            Self::Exit(0) => None,
            Self::Exit(code) => Some(format!("command terminated with non-zero exit code: {code}")),
            Self::Failed(failure) => Some(failure.to_string()),
        };
        if form == Form::Text {
            return message.unwrap_or_default();
        }
        let message = message.as_deref();
        let cause = match self {
            Self::Exit(0) => None,
            Self::Exit(code) => Some((Some("ExitCode"), code.to_string())),
            Self::Failed(failure) => Some((None, failure.to_string())),
        };
        let (reason, code) = match self {
            Self::Exit(0) => (None, None),
            Self::Exit(_) => (Some("NonZeroExitCode"), None),
            Self::Failed(_) => (Some("InternalError"), Some(500)),
        };
        let details = cause
            .as_ref()
            .map(|(reason, message)| Details { causes: [Cause { reason: *reason, message }] });
        let status = Status {
            metadata: Metadata {},
            status: if message.is_none() { "Success" } else { "Failure" },
            message,
            reason,
            details,
            code,
        };
        serde_json::to_string(&status).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_is_said_in_json_alone() {
        let outcome = Outcome::Exit(0);
        assert_eq!(outcome.text(Form::Json), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(outcome.text(Form::Text), "");
    }

    #[test]
    fn an_exit_code_is_a_cause() {
        let outcome = Outcome::Exit(3);
        let message = "command terminated with non-zero exit code: 3";
        assert_eq!(
            outcome.text(Form::Json),
            format!(
                r#"{{"metadata":{{}},"status":"Failure","message":"{message}","reason":"NonZeroExitCode","details":{{"causes":[{{"reason":"ExitCode","message":"3"}}]}}}}"#
            )
        );
        assert_eq!(outcome.text(Form::Text), message);
    }

    #[test]
    fn a_failure_says_why() {
        let outcome = Outcome::Failed(Failure("no \"sh\" there".to_owned()));
        assert_eq!(
            outcome.text(Form::Json),
            r#"{"metadata":{},"status":"Failure","message":"no \"sh\" there","reason":"InternalError","details":{"causes":[{"message":"no \"sh\" there"}]},"code":500}"#
        );
        assert_eq!(outcome.text(Form::Text), "no \"sh\" there");
    }
}
