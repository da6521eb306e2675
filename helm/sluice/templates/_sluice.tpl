{{/*
What an application's chart includes, with this chart as a dependency (`mode: sidecar`; restart the pods' grace to your needs):

    spec:
      terminationGracePeriodSeconds: {{ .Values.sluice.terminationGracePeriodSeconds }}
      securityContext: {fsGroup: 10001}
      initContainers:
        {{- include "sluice.sidecar" .Subcharts.sluice | nindent 8 }}
      containers:
        - name: app
          env:
            {{- include "sluice.appEnv" .Subcharts.sluice | nindent 12 }}
      volumes:
        {{- include "sluice.volumes" .Subcharts.sluice | nindent 8 }}

No shareProcessNamespace: the application could read Sluice's memory.
*/}}

{{- define "sluice.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "sluice.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "sluice.image" -}}
{{- with .Values.image }}{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}{{ end }}
{{- end }}

{{/* One container without its name: the same in both modes but for the address it listens on. */}}
{{- define "sluice.container" -}}
image: {{ include "sluice.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args:
  - serve
  - --policy=/etc/sluice/policy/policy.yaml
  - --listen={{ .host }}:{{ .root.Values.ports.proxy }}
  - --admin=0.0.0.0:{{ .root.Values.ports.admin }}
{{- with .root.Values.secrets.env }}
env:
  {{- range $name, $from := . }}
  - name: {{ $name }}
    valueFrom: {secretKeyRef: {name: {{ $from.name | quote }}, key: {{ $from.key | quote }}}}
  {{- end }}
{{- end }}
ports:
  - {name: sluice, containerPort: {{ .root.Values.ports.proxy }}, protocol: TCP}
  - {name: sluice-admin, containerPort: {{ .root.Values.ports.admin }}, protocol: TCP}
startupProbe:
  httpGet: {path: /healthz/startup, port: sluice-admin}
  periodSeconds: 1
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /healthz/ready, port: sluice-admin}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
livenessProbe:
  httpGet: {path: /healthz/live, port: sluice-admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
resources:
  {{- toYaml .root.Values.resources | nindent 2 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
volumeMounts:
  - {name: sluice-policy, mountPath: /etc/sluice/policy, readOnly: true}
  {{- range .root.Values.secrets.files }}
  - {name: {{ printf "sluice-secret-%s" . | trunc 63 | trimSuffix "-" | quote }}, mountPath: {{ printf "/etc/sluice/secrets/%s" . | quote }}, readOnly: true}
  {{- end }}
  - {name: sluice-state, mountPath: /var/lib/sluice}
{{- end }}

{{/* For `initContainers:` — a native sidecar: it starts before the application, is ready before it, and ends after it. */}}
{{- define "sluice.sidecar" -}}
- name: sluice
  restartPolicy: Always
  {{- include "sluice.container" (dict "root" . "host" "127.0.0.1") | nindent 2 }}
{{- end }}

{{/* For `volumes:` of the pod. */}}
{{- define "sluice.volumes" -}}
- name: sluice-policy
  configMap: {name: {{ include "sluice.name" . }}-policy}
{{- range .Values.secrets.files }}
- name: {{ printf "sluice-secret-%s" . | trunc 63 | trimSuffix "-" | quote }}
  secret: {secretName: {{ . | quote }}, defaultMode: {{ $.Values.secrets.fileMode | int }}}
{{- end }}
- name: sluice-state
  {{- if .Values.state.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.state.existingClaim | quote }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ .Values.state.sizeLimit }}}
  {{- end }}
{{- end }}

{{/* For `env:` of the application: what the SDKs read, and no forward proxy on the way to the sidecar. */}}
{{- define "sluice.appEnv" -}}
{{- $url := printf "http://127.0.0.1:%d" (int .Values.ports.proxy) -}}
- {name: OPENAI_BASE_URL, value: {{ $url }}/openai/v1}
- {name: ANTHROPIC_BASE_URL, value: {{ $url }}/anthropic}
- {name: GOOGLE_GEMINI_BASE_URL, value: {{ $url }}/gemini}
- {name: CO_API_URL, value: {{ $url }}/cohere}
- {name: NO_PROXY, value: "localhost,127.0.0.1"}
- {name: no_proxy, value: "localhost,127.0.0.1"}
{{- end }}

{{/* What every pod of this chart shares. */}}
{{- define "sluice.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
securityContext: {runAsNonRoot: true, fsGroup: 10001, fsGroupChangePolicy: OnRootMismatch, seccompProfile: {type: RuntimeDefault}}
{{- range $key := list "imagePullSecrets" "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
{{- with index $.Values $key }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "sluice.podMetadata" -}}
labels:
  {{- include "sluice.labels" . | nindent 2 }}
  {{- with .Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- if or .Values.scrape .Values.podAnnotations }}
annotations:
  {{- if .Values.scrape }}
  prometheus.io/scrape: "true"
  prometheus.io/port: {{ .Values.ports.admin | toString | quote }}
  prometheus.io/path: /metrics
  {{- end }}
  {{- with .Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}
