// Stands for the grader and passes everything; what it is asked stands in promptfoo's results.
module.exports = class {
  id() { return 'passes'; }
  async callApi() {
    return { output: JSON.stringify({ pass: true, score: 1, reason: 'constant' }) };
  }
};
