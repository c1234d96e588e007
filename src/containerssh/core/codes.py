"""Upstream's message codes (``observability.md`` section 5), and ours in the same style.

The text beside a code says when it is logged; ``docs/reference/messages.md`` is made from these classes.
"""

from __future__ import annotations

from containerssh.core.messages import Code


class CoreCode(Code):
    CONFIG_ERROR = "CORE_CONFIG_ERROR", "config path, load, or validation error at start"
    NO_HOST_KEYS = "CORE_NO_HOST_KEYS", "no host keys configured, generating"
    HOST_KEY_GENERATION_FAILED = (
        "CORE_HOST_KEY_GENERATION_FAILED",
        "a host key could not be made or saved",
    )
    HOST_CERTIFICATE_UNUSED = (
        "CORE_HOST_CERTIFICATE_UNUSED",
        "a host certificate fits no host key, or does not hold now",
    )
    CONFIG_FILE = "CORE_CONFIG_FILE", "the configuration file in use"
    CONFIG_RELOADED = "CORE_CONFIG_RELOADED", "SIGHUP: the configuration was reloaded, and applies to new connections"
    CONFIG_RELOAD_FAILED = "CORE_CONFIG_RELOAD_FAILED", "SIGHUP: the new configuration cannot be used; nothing changed"
    CONFIG_NEEDS_RESTART = "CORE_CONFIG_NEEDS_RESTART", "SIGHUP: a changed key has no effect until the next start"
    WORKER_ENDED = (
        "CORE_WORKER_ENDED",
        "one of several server processes ended, was killed because it did not respond, or could not be started",
    )
    STOP_HURRIED = "CORE_STOP_HURRIED", "a second signal: the server stops without the grace time"
    STOP_GIVEN_UP = "CORE_STOP_GIVEN_UP", "not everything was removed in time after a second signal"
    HEALTH_CHECK_FAILED = "CORE_HEALTH_CHECK_FAILED", "--healthcheck failed"
    HEALTH_CHECK_SUCCESSFUL = "CORE_HEALTH_CHECK_SUCCESSFUL", "--healthcheck succeeded"


class ServiceCode(Code):
    STARTING = "SERVICE_STARTING", "one service changes state (label service)"
    RUNNING = "SERVICE_RUNNING", "one service changes state (label service)"
    STOPPING = "SERVICE_STOPPING", "one service changes state (label service)"
    STOPPED = "SERVICE_STOPPED", "one service changes state (label service)"
    CRASHED = "SERVICE_CRASHED", "a service ended with an error"
    POOL_STARTING = "SERVICE_POOL_STARTING", "whole process state"
    POOL_RUNNING = "SERVICE_POOL_RUNNING", "whole process state"
    POOL_STOPPING = "SERVICE_POOL_STOPPING", "whole process state"
    POOL_STOPPED = "SERVICE_POOL_STOPPED", "whole process state"


class LogCode(Code):
    WRITE_FAILED = "LOG_WRITE_FAILED", "log lines were lost: they could not be written"
    ROTATE_FAILED = "LOG_ROTATE_FAILED", "SIGHUP rotation failed"
    FILE_OPEN_FAILED = "LOG_FILE_OPEN_FAILED", "log file cannot be opened"


class ConfigCode(Code):
    REQUEST = "CONFIG_REQUEST", "config webhook attempt"
    BACKEND_ERROR = "CONFIG_BACKEND_ERROR", "config webhook failed"
    RESPONSE = "CONFIG_RESPONSE", "config webhook answered"
    INVALID_STATUS_CODE = "CONFIG_INVALID_STATUS_CODE", "status ≠ 200 from config webhook"
    AUTH_URL_DEPRECATED = "CONFIG_AUTH_URL_DEPRECATED", "auth.url used"
    SECTION_IGNORED = (
        "CONFIG_SECTION_IGNORED",
        "a configuration server sent a section that applies before a login begins",
    )


class BackendCode(Code):
    CONFIG_ERROR = "BACKEND_CONFIG_ERROR", "merged per-connection config invalid"
    CHOSEN = "BACKEND_CHOSEN", "what `backend: auto` chose on this machine"
    REAPED = "BACKEND_REAPED", "what a dead server process had left was removed"


class HTTPCode(Code):
    LISTEN_FAILED = "HTTP_LISTEN_FAILED", "an HTTP server cannot bind"
    CLIENT_ENCODE_FAILED = "HTTP_CLIENT_ENCODE_FAILED", "request body/URL cannot be built"
    CLIENT_CONNECTION_FAILED = "HTTP_CLIENT_CONNECTION_FAILED", "request or body read failed"
    CLIENT_DECODE_FAILED = "HTTP_CLIENT_DECODE_FAILED", "response is not the expected JSON"
    CLIENT_REDIRECTS_DISABLED = "HTTP_CLIENT_REDIRECTS_DISABLED", "redirect refused"
    CLIENT_REQUEST = "HTTP_CLIENT_REQUEST", "request sent"
    CLIENT_REDIRECT = "HTTP_CLIENT_REDIRECT", "redirect followed"
    CLIENT_RESPONSE = "HTTP_CLIENT_RESPONSE", "response status received"


class HealthCode(Code):
    AVAILABLE = "HEALTH_AVAILABLE", "health endpoint listening"
    REQUEST_FAILED = "HEALTH_REQUEST_FAILED", "health client request error"


class MetricsCode(Code):
    AVAILABLE = "METRICS_AVAILABLE", "metrics server listening"


class GeoIPCode(Code):
    CONFIG_ERROR = "GEOIP_CONFIG_ERROR", "the country database cannot be used"


class AuthCode(Code):
    REQUEST = "AUTH", "a webhook, or a directory, is asked"
    SUCCESSFUL = "AUTH_SUCCESSFUL", "webhook said yes"
    FAILED = "AUTH_FAILED", "webhook said no; also OAuth2 refusals (returned)"
    INVALID_STATUS = "AUTH_INVALID_STATUS", "webhook status ≠ 200"
    BACKEND_ERROR = "AUTH_BACKEND_ERROR", "a webhook, or a directory, failed"
    CONFIG_ERROR = "AUTH_CONFIG_ERROR", "Kerberos/OAuth2/LDAP configuration unusable; a users file that cannot be used"
    USERS_FILE_LOADED = "AUTH_USERS_FILE_LOADED", "the users file was read"
    USERS_FILE_FAILED = "AUTH_USERS_FILE_FAILED", "a changed users file, or a line of a key file, cannot be used"
    KEY_LIST_LOADED = "AUTH_KEY_LIST_LOADED", "a file of authorities' keys, or of revoked keys, was read"
    KEY_LIST_FAILED = "AUTH_KEY_LIST_FAILED", "a file of authorities' keys, principals or revoked keys cannot be used"
    KEY_REVOKED = "AUTH_KEY_REVOKED", "a key, or a certificate, that is revoked was refused"
    FILE_PERMISSIONS = "AUTH_FILE_PERMISSIONS", "others may write to a file that says whom to trust, or read a secret"
    USERS_FILE_PERMISSIONS = "AUTH_USERS_FILE_PERMISSIONS", "others than its owner may write to the users file"
    REMEMBERED = "AUTH_REMEMBERED", "a remembered key replaced the questions that its user had answered before"
    REMEMBER_FAILED = (
        "AUTH_REMEMBER_FAILED",
        "the store of remembered keys cannot be used; users are asked their questions",
    )
    KERBEROS_VERIFY_ERROR = "KRB_VERIFY_ERROR", "a ticket, its integrity code, or the principal's name was refused"


class OAuth2Code(Code):
    AVAILABLE = "AUTH_OAUTH2_AVAILABLE", "the redirect page is being served"
    AUTHORIZATION_PENDING = "AUTH_OAUTH2_AUTHORIZATION_PENDING", "the user has not decided in the browser yet"
    TIMEOUT = "AUTH_OAUTH2_TIMEOUT", "nobody decided before the code expired or `authTimeout` was over"
    DEVICE_CODE_REQUEST_FAILED = "AUTH_OAUTH2_DEVICE_CODE_REQUEST_FAILED", "the provider issued no device code"
    STATE_MISMATCH = "AUTH_OAUTH_STATE_MISMATCH", "the pasted answer is not that of this login's link"
    CREDENTIALS = "OAUTH_INCORRECT_CLIENT_CREDENTIALS", "the provider does not know `clientId` and `clientSecret`"
    RATE_LIMIT = "OAUTH_DEVICE_FLOW_RATE_LIMIT_EXCEEDED", "the provider asks for longer pauses than the code lives"
    TOKEN_INVALID = "AUTH_OAUTH2_TOKEN_INVALID", "the provider's answer holds no usable token"
    OIDC_DISCOVERY_FAILED = "OIDC_DISCOVERY_FAILED", "the provider's discovery document cannot be fetched or used"
    OIDC_ACCESS_TOKEN_FETCH_FAILED = "OIDC_ACCESS_TOKEN_FETCH_FAILED", "the token endpoint refused, or failed"
    OIDC_ID_TOKEN_INVALID = (
        "OIDC_ID_TOKEN_INVALID",
        "an ID token has a wrong signature, issuer, audience, time or nonce",
    )
    OIDC_USER_INFO_FETCH_FAILED = "OIDC_USER_INFO_FETCH_FAILED", "the userinfo endpoint refused, or failed"
    OIDC_NO_USERNAME = "OIDC_NO_USERNAME", "the claim `usernameField` is missing, or not a usable name"
    OIDC_REQUIRED_SCOPE_NOT_GRANTED = "OIDC_REQUIRED_SCOPE_NOT_GRANTED", "`enforceScopes`: the user granted less"
    OIDC_DEAUTHORIZE_FAILED = "OIDC_DEAUTHORIZE_FAILED", "a token could not be revoked"
    GITHUB_ACCESS_TOKEN_FETCH_FAILED = "GITHUB_ACCESS_TOKEN_FETCH_FAILED", "GitHub issued no token"
    GITHUB_USER_REQUEST_FAILED = "GITHUB_USER_REQUEST_FAILED", "GitHub did not say who the user is"
    GITHUB_USER_DOES_NOT_MATCH = "GITHUB_USER_DOES_NOT_MATCH", "`enforceUsername`: the GitHub user has another name"
    GITHUB_2FA_NOT_ENABLED = "GITHUB_2FA_NOT_ENABLED", "`require2FA`: the account has no second factor, or hides it"
    GITHUB_NOT_A_MEMBER = "GITHUB_NOT_A_MEMBER", "`requireOrgMembership`: not an active member of the organization"
    GITHUB_REQUIRED_SCOPE_NOT_GRANTED = "GITHUB_REQUIRED_SCOPE_NOT_GRANTED", "`enforceScopes`: the user granted less"
    GITHUB_DELETE_ACCESS_TOKEN_FAILED = "GITHUB_DELETE_ACCESS_TOKEN_FAILED", "a token could not be deleted"
    GENERIC_ACCESS_TOKEN_FETCH_FAILED = "GENERIC_ACCESS_TOKEN_FETCH_FAILED", "the token endpoint refused, or failed"


class SSHCode(Code):
    AVAILABLE = "SSH_AVAILABLE", "server listening"
    START_FAILED = "SSH_START_FAILED", "cannot bind"
    CONNECTED = "SSH_CONNECTED", "TCP connection accepted"
    DISCONNECTED = "SSH_DISCONNECTED", "connection closed"
    HANDSHAKE_FAILED = "SSH_HANDSHAKE_FAILED", "handshake/authentication/backend init failed"
    HANDSHAKE_SUCCESSFUL = "SSH_HANDSHAKE_SUCCESSFUL", "connection ready"
    AUTH_SUCCESSFUL = "SSH_AUTH_SUCCESSFUL", "result of one authentication attempt"
    AUTH_FAILED = "SSH_AUTH_FAILED", "result of one authentication attempt"
    AUTH_PARTIAL = "SSH_AUTH_PARTIAL", "one of several required methods succeeded"
    AUTH_UNAVAILABLE = "SSH_AUTH_UNAVAILABLE", "result of one authentication attempt"
    BACKEND_REJECTED_HANDSHAKE = (
        "SSH_BACKEND_REJECTED_HANDSHAKE",
        "backend/config failed after authentication",
    )
    KEEPALIVE_NORESP = "SSH_KEEPALIVE_NORESP", "keepalive could not be sent"
    GLOBAL_REQUEST_SUCCESSFUL = "SSH_GLOBAL_REQUEST_SUCCESSFUL", "forwarding requests"
    GLOBAL_REQUEST_FAILED = "SSH_GLOBAL_REQUEST_FAILED", "forwarding requests"
    DECODE_FAILED = "SSH_DECODE_FAILED", "undecodable request payload"
    NEW_CHANNEL = "SSH_NEW_CHANNEL", "channel accepted"
    NEW_CHANNEL_REJECTED = "SSH_NEW_CHANNEL_REJECTED", "channel refused"
    UNSUPPORTED_CHANNEL_TYPE = "SSH_UNSUPPORTED_CHANNEL_TYPE", "unknown channel type"
    CHANNEL_REQUEST = "SSH_CHANNEL_REQUEST", "channel requests"
    CHANNEL_REQUEST_SUCCESSFUL = "SSH_CHANNEL_REQUEST_SUCCESSFUL", "channel requests"
    CHANNEL_REQUEST_FAILED = "SSH_CHANNEL_REQUEST_FAILED", "channel requests"
    EXIT = "SSH_EXIT", "exit status sent"
    EXIT_SIGNAL = "SSH_EXIT_SIGNAL", "exit signal sent"
    EXIT_CODE_FAILED = "SSH_EXIT_CODE_FAILED", "sending either failed"
    LIMIT_CONNECTIONS = "SSH_LIMIT_CONNECTIONS", "connections were refused: too many in total"
    LIMIT_CONNECTIONS_PER_ADDRESS = (
        "SSH_LIMIT_CONNECTIONS_PER_ADDRESS",
        "connections were refused: too many from one address",
    )
    LIMIT_CONNECTIONS_PER_PREFIX = (
        "SSH_LIMIT_CONNECTIONS_PER_PREFIX",
        "connections were refused: too many from one network",
    )
    LIMIT_UNAUTHENTICATED = "SSH_LIMIT_UNAUTHENTICATED", "connections were refused: too many have not logged in yet"
    LIMIT_UNAUTHENTICATED_PER_ADDRESS = (
        "SSH_LIMIT_UNAUTHENTICATED_PER_ADDRESS",
        "connections were refused: too many from one address have not logged in yet",
    )
    LIMIT_UNAUTHENTICATED_PER_PREFIX = (
        "SSH_LIMIT_UNAUTHENTICATED_PER_PREFIX",
        "connections were refused: too many from one network have not logged in yet",
    )
    LIMIT_PENALTY = "SSH_LIMIT_PENALTY", "connections were refused: their address has failed too often recently"
    LIMIT_LOGIN_GRACE = "SSH_LIMIT_LOGIN_GRACE", "a client took too long to log in"
    LIMIT_AUTH_TRIES = "SSH_LIMIT_AUTH_TRIES", "a client failed to authenticate too often on one connection"
    LIMIT_AUTH_REQUESTS = "SSH_LIMIT_AUTH_REQUESTS", "a client sent too many authentication requests on one connection"
    LIMIT_AUTH_CALLS = "SSH_LIMIT_AUTH_CALLS", "one connection asked a webhook or the users file too often"
    LIMIT_SESSIONS = "SSH_LIMIT_SESSIONS", "a session was refused: too many are open on one connection"
    LIMIT_FORWARDS = "SSH_LIMIT_FORWARDS", "a forwarded connection was refused: too many are open on one connection"
    LIMIT_LISTENERS = "SSH_LIMIT_LISTENERS", "a client's listener was refused: too many are open on one connection"
    LIMIT_GLOBAL_REQUESTS = (
        "SSH_LIMIT_GLOBAL_REQUESTS",
        "a connection was closed: too many of its requests are waiting",
    )
    LIMIT_ENV = "SSH_LIMIT_ENV", "a variable was refused: too many, or too large, for one session"
    LIMIT_QUEUED_REQUESTS = "SSH_LIMIT_QUEUED_REQUESTS", "a channel was closed: too many requests wait on it"
    LIMIT_UNSENT = "SSH_LIMIT_UNSENT", "a connection was closed: its client does not read the replies"
    LIMIT_REKEY = "SSH_LIMIT_REKEY", "a connection was closed: its client does not finish a key exchange"
    LIMIT_REKEYS = "SSH_LIMIT_REKEYS", "a connection was closed: its client exchanges keys too often"
    LIMIT_UNREACHABLE = "SSH_LIMIT_UNREACHABLE", "a connection was closed: its client's host does not answer any more"
    LIMIT_LOGIN_TIME = "SSH_LIMIT_LOGIN_TIME", "a login was ended: it reached its maximum time"
    LIMITS_REACHED = "SSH_LIMITS_REACHED", "when the server stops: which limits were reached, and how often"
    PROXY_REFUSED = "SSH_PROXY_REFUSED", "a trusted proxy sent no PROXY header, a broken one, or too slowly"


class SecurityCode(Code):
    ENV_REJECTED = "SECURITY_ENV_REJECTED", "policy refused the request"
    TTY_REJECTED = "SECURITY_TTY_REJECTED", "policy refused the request"
    EXEC_REJECTED = "SECURITY_EXEC_REJECTED", "policy refused the request"
    SHELL_REJECTED = "SECURITY_SHELL_REJECTED", "policy refused the request"
    SUBSYSTEM_REJECTED = "SECURITY_SUBSYSTEM_REJECTED", "policy refused the request"
    SIGNAL_REJECTED = "SECURITY_SIGNAL_REJECTED", "policy refused the request"
    X11_FORWARDING_REJECTED = "SECURITY_X11_FORWARDING_REJECTED", "policy refused the request"
    AGENT_FORWARDING_REJECTED = "SECURITY_AGENT_FORWARDING_REJECTED", "policy refused the request"
    FORWARDING_REJECTED = "SECURITY_FORWARDING_REJECTED", "policy refused the connection"
    REVERSE_FORWARDING_REJECTED = "SECURITY_REVERSE_FORWARDING_REJECTED", "policy refused to listen"
    MAX_SESSIONS = "SECURITY_MAX_SESSIONS", "session limit"
    EXEC_FORCING_COMMAND = "SECURITY_EXEC_FORCING_COMMAND", "forceCommand applied"
    EXEC_FAILED_SETENV = "SECURITY_EXEC_FAILED_SETENV", "SSH_ORIGINAL_COMMAND could not be set"


class DockerCode(Code):
    CONFIG_ERROR = "DOCKER_CONFIG_ERROR", "no image / invalid mode"
    IMAGE_PULL_NEEDED_CHECKING = "DOCKER_IMAGE_PULL_NEEDED_CHECKING", "pull decision"
    IMAGE_LISTING = "DOCKER_IMAGE_LISTING", "checking local image"
    IMAGE_LISTING_FAILED = (
        "DOCKER_IMAGE_LISTING_FAILED",
        "check failed, retrying; returned when giving up",
    )
    IMAGE_PULL = "DOCKER_IMAGE_PULL", "pulling"
    IMAGE_PULL_FAILED = "DOCKER_IMAGE_PULL_FAILED", "pulling the image failed"
    CONTAINER_CREATE = "DOCKER_CONTAINER_CREATE", "creating"
    CONTAINER_CREATE_FAILED = (
        "DOCKER_CONTAINER_CREATE_FAILED",
        "the engine refused to create the container",
    )
    CONTAINER_START = "DOCKER_CONTAINER_START", "starting"
    CONTAINER_START_FAILED = (
        "DOCKER_CONTAINER_START_FAILED",
        "the engine could not start the container",
    )
    CONTAINER_ATTACH_FAILED = "DOCKER_CONTAINER_ATTACH_FAILED", "attaching to the container failed"
    CONTAINER_REMOVE = "DOCKER_CONTAINER_REMOVE", "removal"
    CONTAINER_REMOVE_SUCCESSFUL = "DOCKER_CONTAINER_REMOVE_SUCCESSFUL", "removal"
    CONTAINER_REMOVE_FAILED = "DOCKER_CONTAINER_REMOVE_FAILED", "the container could not be removed"
    EXEC = "DOCKER_EXEC", "starting a program"
    EXEC_CREATE_FAILED = "DOCKER_EXEC_CREATE_FAILED", "the engine refused to create an exec"
    EXEC_ATTACH_FAILED = "DOCKER_EXEC_ATTACH_FAILED", "attaching to an exec failed"
    EXEC_SIGNAL_FAILED = "DOCKER_EXEC_SIGNAL_FAILED", "a signal was not delivered"
    EXEC_SIGNAL_FAILED_NO_AGENT = "DOCKER_EXEC_SIGNAL_FAILED_NO_AGENT", "a signal was refused: there is no agent"
    SIGNAL_FAILED_NO_PID = "DOCKER_SIGNAL_FAILED_NO_PID", "a signal came after the program's end"
    CONTAINER_SIGNAL_FAILED = "DOCKER_CONTAINER_SIGNAL_FAILED", "a container's program was not signalled"
    EXEC_PID_READ_FAILED = "DOCKER_EXEC_PID_READ_FAILED", "the image's agent reported no process id"
    EXEC_RESIZE_FAILED = (
        "DOCKER_EXEC_RESIZE_FAILED",
        "a terminal's size was not set (a program that just ended has none)",
    )
    EXIT_CODE_FAILED = "DOCKER_EXIT_CODE_FAILED", "the engine does not report a program's exit code"
    STREAM_OUTPUT_FAILED = "DOCKER_STREAM_OUTPUT_FAILED", "the engine's stream of a program's output broke"
    GUEST_AGENT_DISABLED = "DOCKER_GUEST_AGENT_DISABLED", "programs are started without the server's own agent"
    PROGRAM_ALREADY_RUNNING = "DOCKER_PROGRAM_ALREADY_RUNNING", "request in the wrong state"
    PROGRAM_NOT_RUNNING = "DOCKER_PROGRAM_NOT_RUNNING", "request in the wrong state"
    SUBSYSTEM_NOT_SUPPORTED = "DOCKER_SUBSYSTEM_NOT_SUPPORTED", "unknown subsystem"
    FILE_WRITE = "DOCKER_FILE_WRITE", "writing a file"
    FILE_WRITE_FAILED = "DOCKER_FILE_WRITE_FAILED", "a file could not be written into the container"
    AGENT_LOG = "DOCKER_AGENT_LOG", "agent stderr (untrusted text)"
    AGENT_KEPT_OUT = "DOCKER_AGENT_KEPT_OUT", "the engine refused to put the guest agent, or a file, into a container"
    AGENT_TRANSPORT = "DOCKER_AGENT_TRANSPORT", "how the guest agent is reached on an engine, and why"
    CONFIG_IGNORED = "DOCKER_CONFIG_IGNORED", "keys in the engine's structures that have no effect"
    CONTAINER_ENDED = "DOCKER_CONTAINER_ENDED", "the container ended while it was being started"
    ENGINE_UNAVAILABLE = "DOCKER_ENGINE_UNAVAILABLE", "the engine does not answer, or is too old"
    ORPHAN_REMOVED = "DOCKER_ORPHAN_REMOVED", "what a dead instance left was removed"
    PROTOCOL_ERROR = "DOCKER_PROTOCOL_ERROR", "the engine's answer cannot be understood"


class AgentCode(Code):
    BINARY_MISSING = "AGENT_BINARY_MISSING", "no guest agent for the container's architecture in this installation"
    LINK_BROKEN = "AGENT_LINK_BROKEN", "the link to the guest agent ended or broke"
    PROTOCOL_BROKEN = "AGENT_PROTOCOL_BROKEN", "the guest agent did not keep to the protocol; the link was ended"
    START_FAILED = "AGENT_START_FAILED", "the agent could not start a program"
    FILE_FAILED = "AGENT_FILE_FAILED", "the agent could not write a file"
    REQUEST_FAILED = "AGENT_REQUEST_FAILED", "the agent refused a signal, a resize or another request"
    CONNECT_FAILED = "AGENT_CONNECT_FAILED", "a forwarded connection could not be made in the container"
    LISTEN_FAILED = "AGENT_LISTEN_FAILED", "the agent could not listen in the container"
    ACCEPT_FAILED = "AGENT_ACCEPT_FAILED", "a connection that the container accepted was not forwarded"


class SFTPCode(Code):
    FILE = "SFTP_FILE", "a file was closed: how much of it was read and written"
    OPERATION = "SFTP_OPERATION", "a file or folder was renamed, linked, removed, made, or got other attributes"
    REFUSED = "SFTP_REFUSED", "a rule of the sftp section forbade something"
    FAILED = "SFTP_FAILED", "the SFTP server in the container could not start or go on"
    REPORT_BROKEN = "SFTP_REPORT_BROKEN", "the reports about files were malformed; the session was ended"


class OCICode(Code):
    CONFIG_ERROR = "OCI_CONFIG_ERROR", "the oci section cannot be used"
    IMAGE_UNPACK = "OCI_IMAGE_UNPACK", "an image is being fetched or unpacked"
    IMAGE_FAILED = "OCI_IMAGE_FAILED", "the image could not be fetched or unpacked"
    IMAGE_REMOVED = "OCI_IMAGE_REMOVED", "an unpacked image that nobody uses was removed"
    RUNTIME = "OCI_RUNTIME", "which runtime was chosen, and why"
    RUNTIME_MISSING = "OCI_RUNTIME_MISSING", "no usable OCI runtime on this machine"
    CONTAINER_CREATE = "OCI_CONTAINER_CREATE", "creating a container"
    CONTAINER_CREATE_FAILED = "OCI_CONTAINER_CREATE_FAILED", "a container could not be created"
    CONTAINER_REMOVE = "OCI_CONTAINER_REMOVE", "removing a container"
    CONTAINER_REMOVE_FAILED = "OCI_CONTAINER_REMOVE_FAILED", "a container could not be removed"
    FILE_WRITE = "OCI_FILE_WRITE", "writing a file"
    FILE_WRITE_FAILED = "OCI_FILE_WRITE_FAILED", "a file could not be written into the container"
    ORPHAN_REMOVED = "OCI_ORPHAN_REMOVED", "what a dead instance left was removed"


class KubernetesCode(Code):
    CONFIG_ERROR = (
        "KUBERNETES_CONFIG_ERROR",
        "the address of the Kubernetes API, or the credentials for it, cannot be used",
    )
    API_UNAVAILABLE = "KUBERNETES_API_UNAVAILABLE", "the Kubernetes API does not answer"
    API_REFUSED = "KUBERNETES_API_REFUSED", "the Kubernetes API refused a request; its reason is in the text"
    PROTOCOL_ERROR = "KUBERNETES_PROTOCOL_ERROR", "the Kubernetes API sent something that cannot be understood"
    EXEC_FAILED = "KUBERNETES_EXEC_FAILED", "a program in a pod could not be started, or its stream broke"
    POD_CREATE = "KUBERNETES_POD_CREATE", "creating a pod"
    POD_CREATE_FAILED = "KUBERNETES_POD_CREATE_FAILED", "the cluster refused the pod, or it did not become ready"
    POD_WAIT = "KUBERNETES_POD_WAIT", "waiting until a pod is ready"
    POD_WAIT_FAILED = "KUBERNETES_POD_WAIT_FAILED", "a pod could not be followed"
    POD_NOT_FOUND = "KUBERNETES_POD_NOT_FOUND", "persistent mode: there is no such pod"
    POD_ENDED = "KUBERNETES_POD_ENDED", "a pod ended, or was deleted, while it was in use"
    POD_REMOVE = "KUBERNETES_POD_REMOVE", "removing a pod"
    POD_REMOVE_SUCCESSFUL = "KUBERNETES_POD_REMOVE_SUCCESSFUL", "the cluster is removing a pod"
    POD_REMOVE_FAILED = "KUBERNETES_POD_REMOVE_FAILED", "a pod could not be removed"
    ORPHAN_REMOVED = "KUBERNETES_ORPHAN_REMOVED", "a pod that an ended server process had left was removed"
    LEASE = "KUBERNETES_LEASE", "this process has a Lease, which tells other servers that it is alive"
    LEASE_FAILED = (
        "KUBERNETES_LEASE_FAILED",
        "there is no Lease, or it was removed: other servers cannot clean up after this one, or took it for dead",
    )
    FILE_WRITE = "KUBERNETES_FILE_WRITE", "writing a file"
    FILE_WRITE_FAILED = "KUBERNETES_FILE_WRITE_FAILED", "a file could not be written into the pod"
    GUEST_AGENT_DISABLED = "KUBERNETES_GUEST_AGENT_DISABLED", "programs are started without the server's own agent"
    AGENT_KEPT_OUT = "KUBERNETES_AGENT_KEPT_OUT", "the guest agent could not be brought into a pod"
    DIRECT = "KUBERNETES_DIRECT", "an agent in a pod has connected straight to this server"
    DIRECT_FAILED = "KUBERNETES_DIRECT_FAILED", "an agent in a pod cannot connect to this server (kubernetes.agentLink)"
    AGENT_LOG = "KUBERNETES_AGENT_LOG", "agent stderr (untrusted text)"
    EXEC = "KUBERNETES_EXEC", "starting a program"
    PROGRAM_ALREADY_RUNNING = "KUBERNETES_PROGRAM_ALREADY_RUNNING", "request in the wrong state"
    PROGRAM_NOT_RUNNING = "KUBERNETES_PROGRAM_NOT_RUNNING", "request in the wrong state"
    SUBSYSTEM_NOT_SUPPORTED = "KUBERNETES_SUBSYSTEM_NOT_SUPPORTED", "unknown subsystem"
    PID_READ_FAILED = "KUBERNETES_EXEC_PID_READ_FAILED", "the image's agent reported no process id"
    EXIT_CODE_FAILED = "KUBERNETES_EXIT_CODE_FAILED", "the stream of a program in a pod ended without its exit code"
    EXEC_SIGNAL_FAILED = "KUBERNETES_EXEC_SIGNAL_FAILED", "a signal was not delivered"
    SIGNAL_FAILED_EXITED = "KUBERNETES_SIGNAL_FAILED_EXITED", "a signal came after the program's end"
    EXEC_SIGNAL_FAILED_NO_AGENT = (
        "KUBERNETES_EXEC_SIGNAL_FAILED_NO_AGENT",
        "a signal was refused: there is no agent",
    )


class GeneralCode(Code):
    UNKNOWN_ERROR = "UNKNOWN_ERROR", "a message that has no code of its own"
