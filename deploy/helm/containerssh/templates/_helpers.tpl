{{- define "containerssh.name" -}}
{{- if contains "containerssh" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-containerssh" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "containerssh.selector" -}}
app.kubernetes.io/name: containerssh
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "containerssh.labels" -}}
{{ include "containerssh.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "containerssh.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "containerssh.hostKeys" -}}
{{ .Values.hostKeys.existingSecret | default (printf "%s-host-keys" (include "containerssh.name" .)) }}
{{- end -}}

{{- define "containerssh.hostKeyNames" -}}
{{ ternary .Values.hostKeys.names (list "ed25519" "rsa") (ne .Values.hostKeys.existingSecret "") | toJson }}
{{- end -}}

{{/* What servers need until their last login has ended, which takes them longer than an uninstallation: the rights to remove
its pod, and its pod's walls. The same goes for an upgrade that changes guests.namespace. */}}
{{- define "containerssh.keep" -}}
helm.sh/resource-policy: keep
{{- end -}}

{{/* What every container of ours keeps to: the Pod Security Standard "restricted", and a root that cannot be written. */}}
{{- define "containerssh.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "containerssh.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The server's configuration: ours, what follows from other values, and .Values.config over both. */}}
{{- define "containerssh.config" -}}
{{- $keys := list -}}
{{- range (include "containerssh.hostKeyNames" . | fromJsonArray) -}}
{{- $keys = append $keys (printf "/etc/containerssh/hostkeys/%s" .) -}}
{{- end -}}
{{- $security := dict "allowPrivilegeEscalation" false "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- if eq .Values.guests.podSecurity "restricted" -}}
{{- $_ := mergeOverwrite $security (dict "runAsNonRoot" true "capabilities" (dict "drop" (list "ALL"))) -}}
{{- end -}}
{{- $console := dict
    "name" "shell"
    "image" .Values.guests.image
    "imagePullPolicy" .Values.guests.imagePullPolicy
    "resources" .Values.guests.resources
    "securityContext" $security -}}
{{- $pod := dict
    "metadata" (dict "namespace" .Values.guests.namespace "labels" (dict "containerssh.io/guest" "true"))
    "spec" (dict "automountServiceAccountToken" false "enableServiceLinks" false "containers" (list $console))
    "shellCommand" .Values.guests.shell -}}
{{- with .Values.guests.agentImage -}}
{{- if .repository -}}
{{- $_ := set $pod "agentImage" (printf "%s:%s" .repository (.tag | default $.Chart.AppVersion)) -}}
{{- $_ := set $pod "agentImagePullPolicy" .pullPolicy -}}
{{- end -}}
{{- end -}}
{{- $config := dict
    "ssh" (dict "listen" "0.0.0.0:2222" "hostkeys" $keys)
    "health" (dict "enable" true "listen" "0.0.0.0:7000")
    "backend" "kubernetes"
    "kubernetes" (dict "pod" $pod) -}}
{{- if ne .Values.agentLink.mode "exec" -}}
{{- $listen := printf "0.0.0.0:%d" (int .Values.agentLink.port) -}}
{{- $_ := set $config.kubernetes "agentLink" (dict "mode" .Values.agentLink.mode "listen" $listen) -}}
{{- end -}}
{{- if .Values.metrics.enabled -}}
{{- $_ := set $config "metrics" (dict "enable" true "listen" "0.0.0.0:9100") -}}
{{- end -}}
{{- if .Values.users -}}
{{- $_ := set $config "auth" (dict
    "password" (dict "method" "users") "publicKey" (dict "method" "users")
    "users" (dict "file" "/etc/containerssh/config/users.yaml")) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.config)) -}}
{{- end -}}

