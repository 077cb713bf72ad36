"""Stripe's error replies: one exception that carries the status and the body."""

from usage_tasks.stripe_simulator.wire.wire import JsonObject


class ApiError(Exception):
    """A reply other than 200, in Stripe's shape."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: JsonObject = {"error": {"message": message, "type": kind}}
        if code is not None:
            self.body["error"]["code"] = code
        if param is not None:
            self.body["error"]["param"] = param


def unknown_parameter(name: str) -> ApiError:
    message = f"Received unknown parameter: {name} (Stripe does not have it, or it is not simulated)"
    return ApiError(message, code="parameter_unknown", param=name)


def missing_parameter(name: str) -> ApiError:
    return ApiError(f"Missing required param: {name}.", code="parameter_missing", param=name)


def missing_object(kind: str, identifier: str, *, param: str = "id", status: int = 404) -> ApiError:
    """404 for the object a path names, 400 for one a parameter names, as Stripe does."""
    name = kind.rpartition(".")[2].replace("_", " ")
    return ApiError(f"No such {name}: '{identifier}'", status=status, code="resource_missing", param=param)


def not_simulated(method: str, path: str) -> ApiError:
    return ApiError(f"Unrecognized request URL ({method}: {path}): it is not simulated.", status=404)
