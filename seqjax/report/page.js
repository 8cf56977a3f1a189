// The page reads without this. It adds: cells, length and seed to choose; values to point at.
"use strict";
