{{- define "shelfrank.name" -}}
{{- $name := ternary .Release.Name (printf "%s-shelfrank" .Release.Name) (contains "shelfrank" .Release.Name) }}
{{- $name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "shelfrank.selector" -}}
app.kubernetes.io/name: shelfrank
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "shelfrank.metadata" -}}
name: {{ include "shelfrank.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "shelfrank.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "shelfrank.scheme" -}}
{{ if .Values.tls.secret }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{- /* shelfrank.toml. A JSON string is a TOML string too, and toJson writes whole numbers as such. */ -}}
{{- define "shelfrank.toml" -}}
{{- $own := dict "host" "0.0.0.0" "port" 8100 "ops_port" 8101 "keys_file" "/etc/shelfrank/keys/keys" }}
{{- if .Values.tls.secret }}
{{- $own = merge $own (dict "tls_cert" "/etc/shelfrank/tls/tls.crt" "tls_key" "/etc/shelfrank/tls/tls.key") }}
{{- end }}
{{- $cluster := dict "url" .Values.opensearch.url }}
{{- if .Values.opensearch.caSecret }}
{{- $cluster = merge $cluster (dict "ca_file" "/etc/shelfrank/ca/ca.crt") }}
{{- end }}
{{- $all := mergeOverwrite (deepCopy .Values.settings) (dict "serve" $own "cluster" $cluster) }}
{{- range $section, $values := $all }}
{{- include "shelfrank.table" (list $section $values) }}
{{- end }}
{{- end }}

{{- define "shelfrank.table" -}}
{{- $path := index . 0 }}
{{- $values := index . 1 }}
[{{ $path }}]
{{- range $name, $value := $values }}
{{- if not (kindIs "map" $value) }}
{{ $name | toJson }} = {{ $value | toJson }}
{{- end }}
{{- end }}
{{- range $name, $value := $values }}
{{- if kindIs "map" $value }}
{{ include "shelfrank.table" (list (printf "%s.%s" $path ($name | toJson)) $value) }}
{{- end }}
{{- end }}
{{ end }}
