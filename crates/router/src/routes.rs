//! What is served on the data port.
//!
//! A closed list: whatever is not on it is answered with 404, so that the engines' own
//! administration paths can't be reached through the router.

use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use wire::{
    headers,
    openai::{Dialect, Endpoint},
};

use crate::{
    app::App, completion, doors::HEAD_BYTES_MAX, feedback, intake, models, reject::Refusal,
    reply::Reply, visit::Visit,
};

/// Serves one request of the data port.
pub(crate) async fn route(app: &App, request: &mut Request<Incoming>) -> Response<Reply> {
    let endpoint = Endpoint::from_path(request.uri().path());
    let is_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let problem = problem(request);
    if let Some(endpoint) = endpoint
        && request.method() == Method::POST
        && problem.is_none()
    {
        let mut response = completion::complete(app, endpoint, request).await;
        if is_chunked && !response.status().is_success() {
            close(&mut response);
        }
        return response;
    }
    // Rare, and boxed so that what is not does not carry its size.
    Box::pin(async {
        let visit = Visit::begin(app, request);
        let answer = match problem {
            Some(refusal) => Err(refusal),
            None => answer(app, endpoint, request).await,
        };
        let dialect = endpoint.map_or(Dialect::OpenAi, Endpoint::dialect);
        let mut response = visit.answer(answer, dialect);
        if is_chunked {
            close(&mut response);
        }
        response
    })
    .await
}

/// Has nothing else served on this connection: nobody has looked at where the chunked body of its request
/// ends.
fn close(response: &mut Response<Reply>) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// What is wrong with a request whatever it asks for.
fn problem(request: &Request<Incoming>) -> Option<Refusal> {
    if let Some(problem) = headers::framing_problem(request.version(), request.headers()) {
        return Some(Refusal::Framing(problem));
    }
    let (bytes, bytes_max) = (head_bytes(request), HEAD_BYTES_MAX as usize);
    if bytes_max < bytes {
        return Some(Refusal::HeadTooLong { bytes_max });
    }
    let expects = request.headers().get(header::EXPECT)?;
    let is_met = expects.as_bytes().eq_ignore_ascii_case(b"100-continue");
    (!is_met).then_some(Refusal::Expectation)
}

/// Length of a request's head as HTTP/1 writes it.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let authority = uri.authority().map_or(0, |it| it.as_str().len());
    let target = authority + uri.path_and_query().map_or(0, |it| it.as_str().len());
    let line = request.method().as_str().len() + target + "  HTTP/1.1\r\n".len();
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    line + headers.sum::<usize>() + "\r\n".len()
}

/// Answers what goes to no replica, to those who may ask.
async fn answer(
    app: &App,
    endpoint: Option<Endpoint>,
    request: &mut Request<Incoming>,
) -> Result<Response<Reply>, Refusal> {
    let settings = app.settings.load_full();
    let known = settings.tenants.identify(request.headers_mut())?;
    let path = request.uri().path();
    if endpoint.is_some() || path == "/v1/feedback" {
        let is_label = endpoint.is_none() && request.method() == Method::POST;
        return if is_label {
            let tenant = intake::tenant(&settings, known.as_deref(), request.headers())?;
            let tenant = settings.reader.tenant_id(tenant.as_deref());
            feedback::take(app, tenant, request).await
        } else {
            Err(Refusal::Method { allowed: "POST" })
        };
    }
    let is_models = path == "/v1/models";
    let Some(model) = path.strip_prefix("/v1/models/").or(is_models.then_some("")) else {
        return Err(Refusal::NoPath);
    };
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(Refusal::Method { allowed: "GET, HEAD" });
    }
    if is_models { models::list(&app.fleet) } else { models::show(&app.fleet, model) }
}
