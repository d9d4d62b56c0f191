//! What providers write when a quota is used up, a prompt is too long or a filter refused: codes first, words second.
//!
//! The words were gathered from the providers' public documentation and from the answers of llama.cpp, vLLM, TGI and
//! Ollama. A word that is missing here costs little: the fault then falls back to the row of its status.

/// Codes (`error.code`, `error.type`, `error.status`) that mean a used-up quota.
const QUOTA_CODES: &[&str] = &[
    "insufficient_quota",
    "insufficient_credits",
    "insufficient_balance",
    "billing_hard_limit_reached",
    "billing_not_active",
    "billing_error",
    "credit_balance_too_low",
    "payment_required",
];

const QUOTA_WORDS: &[&str] = &[
    "insufficient_quota",
    "insufficient quota",
    "insufficient balance",
    "insufficient credit",
    "insufficient funds",
    "exceeded your current quota",
    "quota exceeded",
    "quota has been exceeded",
    "quota exhausted",
    "quota has been exhausted",
    "exceeded your quota",
    "credit balance is too low",
    "out of credits",
    "billing hard limit",
    "billing_hard_limit",
    "check your plan and billing",
    "api usage limits",
    "spending limit",
    "spend limit",
];

const CONTEXT_CODES: &[&str] = &[
    "context_length_exceeded",
    "exceed_context_size_error",
    "context_window_exceeded",
    "model_max_prompt_tokens_exceeded",
    "string_above_max_length",
    "request_too_large",
];

const CONTEXT_WORDS: &[&str] = &[
    "context length",
    "context_length",
    "context window",
    "context size",
    "context limit",
    "exceeds the context",
    "exceed context",
    "maximum prompt length",
    "prompt is too long",
    "prompt too long",
    "input is too long",
    "input too long",
    "input length exceeds",
    "reduce the length of",
    "too large for model with",
    "request too large for model",
    "`inputs` tokens + `max_new_tokens`",
    "too many input tokens",
    "too many tokens",
    "exceed the maximum input",
];

const FILTER_CODES: &[&str] =
    &["content_filter", "content_policy_violation", "responsibleaipolicyviolation", "data_inspection_failed"];

const FILTER_WORDS: &[&str] =
    &["content management policy", "content filtering policy", "content policy", "safety system", "blocked by safety"];

/// `words` is in lower case.
pub(crate) fn says_quota(codes: &[String], words: &str) -> bool {
    has_code(QUOTA_CODES, codes) || has_words(QUOTA_WORDS, words)
}

/// By the code alone: this is said of a quota only, never of a limit per minute.
pub(crate) fn is_quota_code(codes: &[String]) -> bool {
    has_code(QUOTA_CODES, codes)
}

/// `words` is in lower case.
pub(crate) fn says_context(codes: &[String], words: &str) -> bool {
    has_code(CONTEXT_CODES, codes) || has_words(CONTEXT_WORDS, words) || gemini_says_context(words)
}

/// `words` is in lower case.
pub(crate) fn says_filtered(codes: &[String], words: &str) -> bool {
    has_code(FILTER_CODES, codes) || has_words(FILTER_WORDS, words)
}

/// "The input token count (N) exceeds the maximum number of tokens allowed (M)", with or without the numbers.
fn gemini_says_context(words: &str) -> bool {
    words.contains("input token count") && words.contains("exceed")
}

/// The HTTP status that a code or type stands for, where an error comes inside an answer with another status.
pub(crate) fn status_of_code(code: &str) -> Option<u16> {
    Some(match code {
        "rate_limit_exceeded"
        | "rate_limit_error"
        | "rate_limited"
        | "too_many_requests"
        | "resource_exhausted"
        | "tokens"
        | "requests"
        | "throttling" => 429,
        "overloaded_error" | "overloaded" | "engine_overloaded" => 529,
        "unavailable_error" | "unavailable" | "service_unavailable" => 503,
        "server_error" | "api_error" | "internal_server_error" | "internal_error" | "internal" | "unknown" => 500,
        "timeout_error" | "timeout" | "deadline_exceeded" => 504,
        "authentication_error" | "invalid_api_key" | "unauthenticated" => 401,
        "permission_error" | "permission_denied" => 403,
        "not_found_error" | "model_not_found" | "not_found" => 404,
        "conflict_error" | "aborted" => 409,
        "invalid_request_error" | "invalid_argument" | "badrequesterror" | "bad_request" | "failed_precondition" => 400,
        "billing_error" | "payment_required" => 402,
        "request_too_large" => 413,
        _ => return None,
    })
}

/// The same by words, for an error that is a bare sentence.
pub(crate) fn status_of_words(words: &str) -> Option<u16> {
    if words.contains("rate limit") || words.contains("too many requests") {
        Some(429)
    } else if words.contains("invalid api key") || words.contains("unauthorized") {
        Some(401)
    } else if words.contains("model") && words.contains("not found") {
        Some(404)
    } else {
        None
    }
}

fn has_code(known: &[&str], codes: &[String]) -> bool {
    codes.iter().any(|code| known.contains(&code.as_str()))
}

fn has_words(known: &[&str], words: &str) -> bool {
    known.iter().any(|known| words.contains(known))
}
