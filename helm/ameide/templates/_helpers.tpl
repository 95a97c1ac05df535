{{/* Names and what all pods share. `ameide.service` merges a service's entry over the defaults. */}}

{{- define "ameide.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* The labels of every object; give (dict "root" $ "component" "users"). */}}
{{- define "ameide.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: ameide
{{ include "ameide.selector" . }}
{{- end }}

{{- define "ameide.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The services of the mesh (services.yaml of the repository), as YAML: what each calls, what calls it. */}}
{{- define "ameide.services" -}}
{{- $services := .Files.Get "files/services.yaml" | fromYaml }}
{{- range $name, $_ := .Values.services }}
{{- if not (hasKey $services $name) }}{{ fail (printf "services.%s: there is no such service; there are %s" $name (keys $services | sortAlpha | join ", ")) }}{{ end }}
{{- end }}
{{- range $name, $service := $services }}
{{- $callers := list "edge" }}
{{- range $other, $entry := $services }}
{{- if has $name ($entry.siblings | default list) }}{{ $callers = append $callers $other }}{{ end }}
{{- end }}
{{- $_ := set $service "callers" $callers }}
{{- end }}
{{- toYaml $services }}
{{- end }}

{{/* A service's entry in the list with its values, as YAML; give (dict "root" $ "name" "users"). */}}
{{- define "ameide.service" -}}
{{- $entry := index (include "ameide.services" .root | fromYaml) .name }}
{{- mergeOverwrite (deepCopy .root.Values.defaults) (deepCopy (index .root.Values.services .name | default dict)) $entry | toYaml }}
{{- end }}

{{/* An image; give (dict "root" $ "name" "users" "digest" ""). */}}
{{- define "ameide.image" -}}
{{- $image := .root.Values.image -}}
{{- $base := printf "%s/%s-%s" $image.registry $image.repository .name -}}
{{- if .digest }}{{ $base }}@{{ .digest }}{{ else }}{{ $base }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The restricted profile of the Pod Security Standards. */}}
{{- define "ameide.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "ameide.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Pods apart from each other; give (dict "root" $ "component" "users"). */}}
{{- define "ameide.spread" -}}
- maxSkew: 1
  topologyKey: {{ .root.Values.topologySpread.zoneKey }}
  whenUnsatisfiable: {{ .root.Values.topologySpread.whenZoneUnsatisfiable }}
  # Each rollout is spread by itself, and a node that takes no pods, as in a drained zone, does not count.
  matchLabelKeys: [pod-template-hash]
  nodeTaintsPolicy: Honor
  labelSelector: {matchLabels: {{ include "ameide.selector" . | fromYaml | toJson }}}
- maxSkew: 1
  topologyKey: {{ .root.Values.topologySpread.hostKey }}
  whenUnsatisfiable: ScheduleAnyway
  matchLabelKeys: [pod-template-hash]
  nodeTaintsPolicy: Honor
  labelSelector: {matchLabels: {{ include "ameide.selector" . | fromYaml | toJson }}}
{{- end }}

{{/* Where pods may run, of a service or the edge; give its values. */}}
{{- define "ameide.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* DNS, without which nothing else is found: a rule of a NetworkPolicy. */}}
{{- define "ameide.dns" -}}
- to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]
  ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end }}

{{/* How many pods a Deployment names; give (dict "values" … "live" its Deployment in the cluster, or nothing "scaler" its autoscaler there).

With autoscaling it names none, or each upgrade would undo what the autoscaler did. But what an earlier release named and this one leaves
out, Kubernetes sets to 1. So after autoscaling is switched on, a Deployment goes on to name what it has, and an annotation remembers that.
Where Helm applies on the server's side, that ends as soon as the autoscaler has changed the count: it is the autoscaler's then, stays
when it is left out, and a rollback to another count would be refused. */}}
{{- define "ameide.replicas" -}}
{{- $applied := false }}
{{- $others := false }}
{{- range dig "metadata" "managedFields" list (.live | default dict) }}
{{- if eq .operation "Apply" }}{{ $applied = true }}
{{- else if hasKey (dig "f:spec" dict (.fieldsV1 | default dict)) "f:replicas" }}{{ $others = true }}{{ end }}
{{- end }}
{{- if not .values.autoscaling.enabled }}
{{- dict "replicas" .values.replicas | toYaml }}
{{- else if and $applied $others }}
{{- else if and .live (or (not .scaler) (hasKey (.live.metadata.annotations | default dict) "ameide/replicas")) }}
{{- dict "replicas" (max .live.spec.replicas .values.autoscaling.minReplicas) "annotation" "handed over to the autoscaler" | toYaml }}
{{- end }}
{{- end }}

{{/* Stops at values that the schema cannot compare; give (dict "name" "users" "autoscaling" $service.autoscaling). */}}
{{- define "ameide.checkScaling" -}}
{{- if gt (int .autoscaling.minReplicas) (int .autoscaling.maxReplicas) }}
{{- fail (printf "%s.autoscaling: minReplicas %v is more than maxReplicas %v" .name .autoscaling.minReplicas .autoscaling.maxReplicas) }}
{{- end }}
{{- end }}

{{/* Where a sibling is; headless, so that callers see every pod. */}}
{{- define "ameide.address" -}}
{{ include "ameide.fullname" .root }}-{{ .name }}.{{ .root.Release.Namespace }}.svc.cluster.local:50051
{{- end }}

{{/* A service's whole environment; give (dict "root" $ "name" "users" "service" $service). */}}
{{- define "ameide.environment" -}}
{{- $prefix := .name | upper -}}
{{- $values := .root.Values -}}
- {name: {{ $prefix }}_SERVER_GRPC_PORT, value: "50051"}
- {name: {{ $prefix }}_SERVER_OPERATIONS_PORT, value: "9101"}
- {name: {{ $prefix }}_SERVER_DRAIN_SECONDS, value: {{ $values.drainSeconds | quote }}}
- {name: {{ $prefix }}_SERVER_DRAIN_DELAY_SECONDS, value: {{ $values.drainDelaySeconds | quote }}}
- {name: {{ $prefix }}_SERVER_INTERNAL_CALLERS, value: {{ without .service.callers "edge" | join "," | quote }}}
- {name: {{ $prefix }}_DATABASE_POOL_SIZE, value: {{ .service.database.poolSize | quote }}}
- {name: {{ $prefix }}_TLS_CERTIFICATE_PATH, value: /run/tls/tls.crt}
- {name: {{ $prefix }}_TLS_PRIVATE_KEY_PATH, value: /run/tls/tls.key}
- {name: {{ $prefix }}_TLS_CA_PATH, value: /run/tls/ca.crt}
- {name: {{ $prefix }}_AUTH_ISSUER, value: {{ $values.auth.issuer | quote }}}
- {name: {{ $prefix }}_AUTH_AUDIENCE, value: {{ $values.auth.audience | quote }}}
- {name: {{ $prefix }}_AUTH_CLAIMS, value: {{ $values.auth.claims }}}
- {name: {{ $prefix }}_AUTH_INTERNAL_JWKS_PATH, value: /run/internal/internal-jwks.json}
{{- if $values.auth.jwks.authority }}
# OpenSSL's own variable; the services ask nobody else but the issuer over HTTPS.
- {name: SSL_CERT_FILE, value: /run/issuer/ca.crt}
{{- end }}
- {name: {{ $prefix }}_LOG_LEVEL, value: {{ $values.telemetry.logLevel }}}
{{- if .service.issues_api_keys }}
- {name: {{ $prefix }}_APIKEYS_SIGNING_KEY_PATH, value: /run/internal/internal.pem}
{{- end }}
{{- range .service.siblings }}
- {name: {{ $prefix }}_CLIENTS_{{ . | upper }}_ADDRESS, value: {{ include "ameide.address" (dict "root" $.root "name" .) | quote }}}
{{- end }}
{{- if $values.telemetry.otlpEndpoint }}
- {name: {{ $prefix }}_TELEMETRY_OTLP_ENDPOINT, value: {{ $values.telemetry.otlpEndpoint | quote }}}
# OpenTelemetry's own variable.
- {name: OTEL_RESOURCE_ATTRIBUTES, value: "service.version={{ $values.image.tag | default .root.Chart.AppVersion }}"}
{{- end }}
{{- range $name, $value := .service.environment }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{- define "ameide.databaseSecret" -}}
{{ .service.database.existingSecret | default (printf "%s-%s-database" (include "ameide.fullname" .root) .name) }}
{{- end }}

{{/* Up at once, down slowly: a wave that comes back finds its pods. */}}
{{- define "ameide.scaling" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies:
    - {type: Percent, value: 100, periodSeconds: 15}
    - {type: Pods, value: 4, periodSeconds: 15}
  selectPolicy: Max
scaleDown:
  stabilizationWindowSeconds: 300
  policies:
    - {type: Percent, value: 25, periodSeconds: 60}
{{- end }}
