-- Until when a saga may wait out what may pass, and when it is attempted next; deployments show both. The release before
-- knows neither and leaves them as they are.
ALTER TABLE sagas ADD COLUMN deadline_time timestamptz, ADD COLUMN next_attempt_time timestamptz;
ALTER TABLE deployments ADD COLUMN deadline_time timestamptz, ADD COLUMN next_attempt_time timestamptz;
